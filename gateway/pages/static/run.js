// The events of one run, live: opened again by the browser after every cut, at the id that it saw last.
// Everything that an agent says becomes a text node, never HTML.

const log = document.getElementById("log");
const connection = document.getElementById("connection");
const steps = new Map(); // by number: what is shown of the step now
const tools = new Map(); // by tool call id
let paintedState = "";

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function show(state) {
  if (state === paintedState) return;
  paintedState = state;
  const words = state.replace("RUN_STATE_", "").toLowerCase().replaceAll("_", " ");
  document.getElementById("state").replaceChildren(element("span", `state ${words.replaceAll(" ", "-")}`, words));
}

function beginStep(event) {
  const number = event.step ?? 0;
  const again = supersede(number) ? ", once more" : "";
  const section = element("div", "step");
  const name = event.stepStarted?.name;
  if (number) section.append(element("h3", "", `step ${number}${name ? `: ${name}` : ""}${again}`));
  const step = { section, part: null };
  steps.set(number, step);
  log.append(section);
  return step;
}

function supersede(number) {
  const step = steps.get(number);
  if (!step) return false;
  step.section.classList.add("superseded");
  step.section.title = "superseded: this step was executed again";
  return true;
}

// A message of a conversation, and what becomes of its turn.
function showMessage(value, words) {
  const shown = element("div", "message");
  shown.append(element("p", "faint", words), element("div", "text", pretty(value ?? null)));
  log.append(shown);
}

function stepOf(event) {
  return steps.get(event.step ?? 0) ?? beginStep(event);
}

function append(event, className, text) {
  const step = stepOf(event);
  if (step.part?.className !== className) {
    step.part = element("div", className);
    step.part.append(document.createTextNode(""));
    step.section.append(step.part);
  }
  step.part.lastChild.appendData(text);
}

function startTool(event) {
  const { toolCallId, toolName, arguments: given } = event.toolCallStarted;
  const tool = element("details", "tool");
  tool.append(element("summary", "", `${toolName} ...`), element("pre", "", pretty(given ?? {})));
  const step = stepOf(event);
  step.part = null;
  step.section.append(tool);
  tools.set(toolCallId, { tool, toolName });
}

function finishTool(event) {
  const { toolCallId, toolName, result, outcome } = event.toolCallFinished;
  if (!tools.has(toolCallId)) startTool({ ...event, toolCallStarted: { toolCallId, toolName } });
  const { tool } = tools.get(toolCallId);
  const words = (outcome ?? "").replace("TOOL_CALL_OUTCOME_", "").toLowerCase().replaceAll("_", " ");
  tool.firstChild.textContent = `${toolName}: ${words}`;
  tool.append(element("pre", "", pretty(result ?? null)));
}

const handlers = {
  runStarted(event) {
    for (const number of steps.keys()) supersede(number);
    steps.clear();
    show("RUN_STATE_RUNNING");
  },
  stepStarted: beginStep,
  textDelta: (event) => append(event, "text", event.textDelta.text ?? ""),
  reasoningDelta: (event) => append(event, "reasoning", event.reasoningDelta.text ?? ""),
  toolCallStarted: startTool,
  toolCallFinished: finishTool,
  turnStarted(event) {
    show("RUN_STATE_RUNNING");
    showMessage(event.turnStarted.message, `turn ${event.turn}`);
  },
  messageReceived(event) {
    showMessage(event.messageReceived.message, "within this turn");
  },
  turnFinished(event) {
    const { state, error } = event.turnFinished;
    if (state !== "RUN_STATE_SUCCEEDED") {
      const words = (state ?? "").replace("RUN_STATE_", "").toLowerCase();
      log.append(element("p", "faint", `turn ${event.turn} ${words}${error ? `: ${error.message}` : ""}`));
    }
    show("RUN_STATE_WAITING");
  },
  custom(event) {
    const step = stepOf(event);
    step.part = null;
    const shown = element("details", "tool");
    shown.append(element("summary", "", event.custom.type), element("pre", "", pretty(event.custom.data ?? {})));
    step.section.append(shown);
  },
  runSuspended() {
    show("RUN_STATE_SUSPENDED");
    // What it waits for, and the form to answer, are rendered by the service. Only news: not while we replay.
    if (live && !document.querySelector(".pending")) location.reload();
  },
  runResumed() {
    show("RUN_STATE_RUNNING");
    if (live) document.getElementById("pending").replaceChildren();
  },
  runFinished(event) {
    const { state, output } = event.runFinished;
    show(state);
    document.getElementById("cancel")?.remove();
    document.getElementById("say")?.remove();
    document.getElementById("pending").replaceChildren();
    document.getElementById("result").hidden = steps.size > 0 && output === undefined;
    document.getElementById("output").textContent = pretty(output ?? null);
  },
};

// The page was rendered as the run was after this event; what follows is news to it.
const rendered = Number(log.dataset.shown);
let live = false;

function take(event) {
  live = Number(event.sequence) > rendered;
  for (const [name, handle] of Object.entries(handlers)) {
    if (event[name] !== undefined) handle(event);
  }
}

// A message is sent in place, once however often the network makes us repeat it.
const say = document.getElementById("say");
say?.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const form = new FormData(say);
  form.set("request_id", crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`);
  const problem = document.getElementById("say-problem");
  try {
    const answer = await fetch(say.action, { method: "POST", body: new URLSearchParams(form), redirect: "manual" });
    if (answer.type !== "opaqueredirect" && !answer.ok) throw new Error(`it was refused (${answer.status})`);
    problem.textContent = "";
    say.reset();
  } catch (error) {
    problem.textContent = `The message was not sent: ${error.message}`;
  }
});

const source = new EventSource(`/v1/runs/${encodeURIComponent(log.dataset.run)}/events`);
source.onopen = () => { connection.textContent = "live"; };
source.onerror = () => {
  connection.textContent = source.readyState === EventSource.CLOSED ? "not connected" : "connecting again ...";
};
source.onmessage = (message) => take(JSON.parse(message.data));
source.addEventListener("end", () => {
  source.close();
  connection.textContent = "";
  if (log.dataset.ended === "no") document.body.dataset.ended = "yes";
});
source.addEventListener("problem", (message) => {
  const problem = JSON.parse(message.data);
  if (problem.status < 500 && problem.status !== 429) source.close();
  connection.textContent = problem.detail;
});
