"""Which rank sums, updates and remembers what of the flat vectors."""

from collections.abc import Sequence

from llmlab.optim import Optimizer
from llmlab.optim.base import span
from llmlab.params import Arena, Layout
from llmlab.train.ranks import Ranks
from llmlab.train.regions import Move, Region, Share

Part = tuple[int, int]  # index, number of all


class Division:
    """What each rank holds of the flat vectors."""

    def __init__(self, ranks: Ranks, optimizer: Optimizer, grads: Sequence[Arena]):
        layout, own = grads[0].layout, len(grads)
        count = own * ranks.size
        parts = [(index, count) for index in range(count)]
        of_ranks = [parts[rank * own : (rank + 1) * own] for rank in range(ranks.size)]
        every = [slice(0, layout.size)]
        nothing: list[Region] = [[] for _ in range(ranks.size - 1)]
        self.spans: list[Region] = [  # where each rank sums the gradients
            [slice(span(layout.size, some[0]).start, span(layout.size, some[-1]).stop)]
            for some in of_ranks
        ]
        # Where it updates; None if each rank updates all.
        self.owned = _owned(optimizer, layout, of_ranks)
        self.share_gradient = Share(ranks, self.spans)
        self.fetch_gradient = Move(ranks, self.spans, [every, *nothing])
        if self.owned is not None:
            self.to_owner = Move(ranks, self.spans, self.owned)
            self.share = Share(ranks, self.owned)
            self.fetch = Move(ranks, self.owned, [every, *nothing])
            self.spread = Move(ranks, [every, *nothing], self.owned)


def parts_of(optimizer: Optimizer, grads: Sequence[Arena], ranks: Ranks, rank: int) -> list[Part]:
    """Return the parts that the `rank`-th shard of this machine updates, its own span first."""
    own = len(grads)
    count, index = own * ranks.size, own * ranks.rank + rank
    if optimizer.owned(grads[0].layout, (index, count)) is not None:
        return [(index, count)]
    return [(index, count), *((i, count) for i in range(rank, count, own) if i != index)]


def _owned(
    optimizer: Optimizer, layout: Layout, of_ranks: Sequence[Sequence[Part]]
) -> list[Region] | None:
    """Return where each rank's parts are updated; None if the optimizer can't tell."""
    found: list[Region] = []
    for parts in of_ranks:
        owned = [optimizer.owned(layout, part) for part in parts]
        if any(each is None for each in owned):
            return None
        found.append(_joined([at for each in owned if each is not None for at in each]))
    return found


def _joined(region: Region) -> Region:
    """Return a region in order, with slices that follow each other made one."""
    joined: Region = []
    for at in sorted((at for at in region if at.start < at.stop), key=lambda at: at.start):
        if joined and joined[-1].stop == at.start:
            joined[-1] = slice(joined[-1].start, at.stop)
        else:
            joined.append(at)
    return joined
