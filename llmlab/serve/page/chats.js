// A conversation as JSON lines in the form that tuning reads: a line for each model.
// A turn is { prompt, answers: { MODEL: { text, ... } } }.

export function messagesOf(system, turns, model) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    messages.push({ role: "user", content: turn.prompt });
    const answer = turn.answers[model];
    if (answer && answer.text) messages.push({ role: "assistant", content: answer.text });
  }
  return messages;
}

export function toLines(system, turns, models) {
  const answered = turns.filter((turn) => models.some((model) => turn.answers[model]?.text));
  if (!answered.length) throw new Error("there is no answer yet");
  const lines = models.map((model) => {
    const own = answered.filter((turn) => turn.answers[model]?.text);
    return own.length ? JSON.stringify({ messages: messagesOf(system, own, model) }) : "";
  });
  return lines.filter(Boolean).join("\n") + "\n";
}

export function fromLines(text, models) {
  const chats = text.split("\n").filter((line) => line.trim()).map((line) => chatOf(line));
  if (!chats.length) throw new Error("the file contains no conversation");
  const prompts = chats.map((chat) => JSON.stringify(chat.turns.map((turn) => turn.prompt)));
  const alike = chats.filter((_, number) => prompts[number] === prompts[0]);
  const turns = alike[0].turns.map((turn, at) => ({
    prompt: turn.prompt,
    answers: Object.fromEntries(models.map((model, number) => [
      model, { text: (alike[number] ?? alike[0]).turns[at].answer, pieces: [] },
    ])),
  }));
  return { system: alike[0].system, turns, left: chats.length - alike.length };
}

function chatOf(line) {
  let messages;
  try {
    messages = JSON.parse(line).messages;
  } catch {
    messages = null;
  }
  if (!Array.isArray(messages)) throw new Error('expected lines of {"messages": [...]}');
  const system = messages[0]?.role === "system" ? String(messages[0].content) : "";
  const rest = messages.slice(messages[0]?.role === "system" ? 1 : 0);
  const turns = [];
  for (let at = 0; at < rest.length; at += 2) {
    const [asked, told] = [rest[at], rest[at + 1]];
    if (asked?.role !== "user" || told?.role !== "assistant") throw new Error("expected user and assistant in turns");
    turns.push({ prompt: String(asked.content), answer: String(told.content) });
  }
  if (!turns.length) throw new Error("the file contains no conversation");
  return { system, turns };
}
