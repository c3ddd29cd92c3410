// Command watch prints a run's text: watch HOST:PORT RUN [CURSOR].
package main

import (
	"context"
	"fmt"
	"os"

	pb "runwire/agent/v1"
	"runwire.example/watcher"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: watch HOST:PORT RUN [CURSOR]")
		os.Exit(2)
	}
	saved := ""
	if len(os.Args) > 3 {
		saved = os.Args[3]
	}
	state, err := watcher.Watch(context.Background(), os.Args[1], os.Args[2], watcher.Options{Cursor: saved}, func(event *pb.RunEvent) error {
		fmt.Print(event.GetTextDelta().GetText())
		return nil
	}, func(cursor string) { saved = cursor })
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", watcher.Reason(err), err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "%s, cursor %s\n", state, saved)
	if state != pb.RunState_RUN_STATE_SUCCEEDED {
		os.Exit(1)
	}
}
