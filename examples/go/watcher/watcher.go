// Package watcher follows a run through every cut: each event once, in order, and a cursor that is safe to store.
package watcher

import (
	"context"
	"io"
	"math/rand"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "runwire/agent/v1"
)

// Options say where to begin and what to ask of the service.
type Options struct {
	Cursor       string
	Heartbeat    time.Duration
	MaxBatchSize int32
}

// Refused says that the stream cannot continue, and why.
type Refused struct{ Reason string }

func (r Refused) Error() string { return r.Reason }

type place struct {
	cursor, epoch string
	last          int64
}

// Watch calls handle with each event and save with each cursor, and returns the run's final state. It returns a Refused
// where it cannot continue, and ctx.Err() when ctx is done.
func Watch(ctx context.Context, target, run string, o Options, handle func(*pb.RunEvent) error, save func(string)) (pb.RunState, error) {
	if o.Heartbeat == 0 {
		o.Heartbeat = 10 * time.Second
	}
	at := &place{cursor: o.Cursor}
	for bound := 50 * time.Millisecond; ; bound = min(bound*8/5, 10*time.Second) {
		before := at.last
		ended, err := once(ctx, target, run, o, at, handle, save)
		if ended != nil {
			return ended.State, nil
		}
		wait, resumable := retry(err)
		if !resumable || ctx.Err() != nil {
			return 0, err
		}
		if at.last > before {
			bound = 50 * time.Millisecond // only a new event makes the next wait a short one
		}
		select {
		case <-time.After(wait + time.Duration(rand.Int63n(int64(bound)))):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// once follows one stream. It returns what ended the run, or else why the stream is over; nil and nil is OK without an end.
func once(parent context.Context, target, run string, o Options, at *place, handle func(*pb.RunEvent) error, save func(string)) (*pb.Ended, error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	// A connection of its own each time: a frozen one must not be used again.
	connection, err := grpc.DialContext(ctx, target, grpc.WithInsecure())
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	request := &pb.WatchRunRequest{RunId: run, HeartbeatInterval: durationpb.New(o.Heartbeat), MaxBatchSize: o.MaxBatchSize}
	if at.cursor != "" {
		request.Start = &pb.WatchRunRequest_Cursor{Cursor: at.cursor}
	}
	silence := o.Heartbeat * 5 / 2
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	stream, err := pb.NewAgentServiceClient(connection).WatchRun(ctx, request)
	for err == nil {
		var frame *pb.WatchRunResponse
		if frame, err = stream.Recv(); err != nil {
			break
		}
		watchdog.Stop() // the handler may take its time
		if opened := frame.GetOpened(); opened != nil {
			if at.epoch != "" && opened.Epoch != at.epoch {
				return nil, Refused{"CURSOR_EPOCH_MISMATCH"}
			}
			at.epoch, silence = opened.Epoch, opened.HeartbeatInterval.AsDuration()*5/2
		}
		for _, event := range frame.GetBatch().GetEvents() {
			if at.last > 0 && event.Sequence <= at.last {
				continue // sent again
			}
			if at.last > 0 && event.Sequence > at.last+1 {
				return nil, Refused{"EVENTS_LOST"}
			}
			if err := handle(event); err != nil {
				return nil, err
			}
			at.last = event.Sequence
		}
		if frame.Cursor != "" && frame.Cursor != at.cursor {
			at.cursor = frame.Cursor // all of the frame is handled
			save(at.cursor)
		}
		if ended := frame.GetEnded(); ended != nil {
			return ended, nil
		}
		watchdog.Reset(silence)
	}
	if err == io.EOF {
		err = nil // OK without `ended` is a cut like any other
	}
	return nil, err
}

// retry tells whether to open the stream again after err, and after how long at least.
func retry(err error) (time.Duration, bool) {
	if err == nil {
		return 0, true
	}
	failure, known := status.FromError(err)
	if !known {
		return 0, false
	}
	reason, wait := "", time.Duration(0)
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			wait = time.Duration(detail.RetryDelay.Seconds)*time.Second + time.Duration(detail.RetryDelay.Nanos)
		}
	}
	switch failure.Code() {
	case codes.Unavailable, codes.Canceled: // Canceled: by our own watchdog
		return wait, true
	case codes.ResourceExhausted:
		return wait, reason == "SLOW_CONSUMER" || reason == "TOO_MANY_STREAMS"
	case codes.Internal:
		if unreadable(failure) { // what does not parse would come again: that is no cut
			return 0, false
		}
		return wait, strings.Contains(failure.Message(), "RST_STREAM") || strings.Contains(failure.Message(), "unexpected EOF")
	}
	return 0, false
}

// unreadable tells whether gRPC could not parse what the service sent.
func unreadable(failure *status.Status) bool {
	return failure.Code() == codes.Internal && strings.Contains(failure.Message(), "failed to unmarshal")
}

// Reason names an error as the service did: ErrorInfo.reason, or else the status.
func Reason(err error) string {
	if refused, ok := err.(Refused); ok {
		return refused.Reason
	}
	failure, _ := status.FromError(err)
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	if unreadable(failure) {
		return "FRAME_UNREADABLE"
	}
	return failure.Code().String()
}

func min(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}
