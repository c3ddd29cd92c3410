import { RunwireError } from "./errors.js";

/** One message of a stream of Server-Sent Events. */
export interface Message {
  /** `message` where the stream names none. */
  event: string;
  data: string;
  /** The last id that the stream said, in this message or before. */
  id: string;
}

const MAX_CHARACTERS = 32 * 1024 * 1024;

/**
 * Reads Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html) from pieces cut anywhere.
 *
 * A message that is not complete is not given out. What reading costs does not depend on how small the pieces are.
 * Raises FRAME_UNREADABLE for a message of more than 32 Mi characters.
 */
export class Parser {
  private readonly decoder = new TextDecoder();
  private line = "";
  private afterReturn = false;
  private event = "";
  private data: string[] = [];
  private size = 0;

  constructor(private id = "") {}

  /** The messages that end in `bytes`. */
  *take(bytes: Uint8Array): Generator<Message> {
    let text = this.decoder.decode(bytes, { stream: true });
    if (this.afterReturn && text) {
      if (text.startsWith("\n")) text = text.slice(1);
      this.afterReturn = false;
    }
    const end = /\r\n|\n|\r/g;
    let begin = 0;
    for (let found = end.exec(text); found; found = end.exec(text)) {
      const line = this.line + text.slice(begin, found.index);
      this.line = "";
      begin = end.lastIndex;
      if (found[0] === "\r" && begin === text.length) this.afterReturn = true;
      const message = this.takeLine(line);
      if (message) yield message;
    }
    this.line += text.slice(begin);
    if (this.line.length + this.size > MAX_CHARACTERS) throw new RunwireError("FRAME_UNREADABLE", `a message has more than ${MAX_CHARACTERS} characters`);
  }

  private takeLine(line: string): Message | undefined {
    if (line === "") {
      const message = this.data.length ? { event: this.event || "message", data: this.data.join("\n"), id: this.id } : undefined;
      [this.event, this.data, this.size] = ["", [], 0];
      return message;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "event") this.event = value;
    if (name === "id" && !value.includes("\0")) this.id = value;
    if (name === "data") {
      this.data.push(value);
      this.size += value.length;
    }
    return undefined;
  }
}
