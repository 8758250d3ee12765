"""Phase `chat`."""

from llmlab.phases.chat.chat import converse, known_questions, run

__all__ = ["converse", "known_questions", "run"]
