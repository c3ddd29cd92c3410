// Command adapter lets the conformance kit drive this client; docs/conformance.md has its lines.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"time"

	pb "runwire/agent/v1"
	"runwire.example/watcher"
)

type request struct {
	Target, Cursor   string
	RunID            string `json:"run_id"`
	HeartbeatSeconds int    `json:"heartbeat_seconds"`
	MaxBatchSize     int32  `json:"max_batch_size"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		options := watcher.Options{Cursor: asked.Cursor, Heartbeat: time.Duration(asked.HeartbeatSeconds) * time.Second,
			MaxBatchSize: asked.MaxBatchSize}
		state, err := watcher.Watch(context.Background(), asked.Target, asked.RunID, options, func(event *pb.RunEvent) error {
			out.Encode(map[string]any{"event": map[string]any{"sequence": event.Sequence, "attempt": event.Attempt,
				"step": event.Step, "kind": kind(event), "text": event.GetTextDelta().GetText()}})
			lines.Scan() // handled
			return nil
		}, func(cursor string) { out.Encode(map[string]string{"cursor": cursor}) })
		if err != nil {
			out.Encode(map[string]string{"error": watcher.Reason(err)})
		} else {
			out.Encode(map[string]string{"ended": state.String()})
		}
	}
}

func kind(event *pb.RunEvent) string {
	message := event.ProtoReflect()
	if field := message.WhichOneof(message.Descriptor().Oneofs().ByName("payload")); field != nil {
		return string(field.Name())
	}
	return ""
}
