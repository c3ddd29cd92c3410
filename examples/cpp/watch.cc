// Prints a run's text, through every cut: watch HOST:PORT RUN [CURSOR].
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <random>
#include <thread>

#include "runwire/agent/v1/agent_service.grpc.pb.h"
#include "status.pb.h"

namespace agent = runwire::agent::v1;
using grpc::StatusCode;
using Seconds = std::chrono::duration<double>;

// What a reader must remember from one stream to the next.
struct Place {
  std::string cursor, epoch;
  int64_t last = 0;
};

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

double InSeconds(const google::protobuf::Duration& d) { return d.seconds() + d.nanos() / 1e9; }

// Waits for the one operation under way. False when it failed, or took longer than `limit` and was cancelled: `late` says so.
bool Wait(grpc::CompletionQueue& queue, grpc::ClientContext& context, double limit, bool* late = nullptr) {
  void* tag;
  bool ok = false;
  const auto deadline = std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::milliseconds>(Seconds(limit));
  if (queue.AsyncNext(&tag, &ok, deadline) == grpc::CompletionQueue::TIMEOUT) {
    context.TryCancel();  // the watchdog: the stream was silent for too long
    if (late) *late = true;
    queue.Next(&tag, &ok);
    return false;
  }
  return ok;
}

// Follows one stream. True when the run has ended, with its state in `state`; otherwise `status` says why the stream is over.
bool Once(const std::string& target, const std::string& run, Place& place, agent::RunState& state, grpc::Status& status,
          const std::function<void(const agent::RunEvent&)>& handle) {
  // A connection of its own each time: a frozen one must not be used again.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = agent::AgentService::NewStub(grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
  agent::WatchRunRequest request;
  request.set_run_id(run);
  if (!place.cursor.empty()) request.set_cursor(place.cursor);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  double silence = 25;
  agent::WatchRunResponse frame;
  const auto stream = stub->AsyncWatchRun(&context, request, &queue, nullptr);
  bool open = Wait(queue, context, silence), ended = false, silent = false, unended = false;
  std::string refused;
  while (open && !ended && refused.empty()) {
    stream->Read(&frame, nullptr);
    if (!(open = Wait(queue, context, silence, &silent))) break;
    if (frame.has_opened()) {
      if (!place.epoch.empty() && frame.opened().epoch() != place.epoch) refused = "CURSOR_EPOCH_MISMATCH";
      place.epoch = frame.opened().epoch();
      silence = 2.5 * InSeconds(frame.opened().heartbeat_interval());
    }
    for (const auto& event : frame.batch().events()) {
      if (place.last && event.sequence() <= place.last) continue;  // sent again
      if (place.last && event.sequence() > place.last + 1) refused = "EVENTS_LOST";
      if (!refused.empty()) break;
      handle(event);
      place.last = event.sequence();
    }
    if (refused.empty() && !frame.cursor().empty()) place.cursor = frame.cursor();  // all of the frame is handled
    if ((ended = frame.has_ended())) state = frame.ended().state();
  }
  if (!refused.empty()) context.TryCancel();
  stream->Finish(&status, nullptr);
  Wait(queue, context, 5, &unended);
  // A read failed, and the stream is not over: the frame does not parse, and the same one would come again.
  if (unended && !open && !silent && !ended) refused = "FRAME_UNREADABLE";
  if (!refused.empty()) throw Refused(refused);
  return ended;
}

// How long to wait at least before the stream is opened again. Throws Refused where it cannot continue.
double RetryDelay(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  details.ParseFromString(status.error_details());
  for (const auto& detail : details.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) detail.UnpackTo(&info);
    if (detail.Is<google::rpc::RetryInfo>()) detail.UnpackTo(&retry);
  }
  const auto code = status.error_code();
  const bool broken = status.error_message().find("RST_STREAM") != std::string::npos || status.error_message().find("EOS") != std::string::npos;
  if (code == StatusCode::OK ||  // OK without `ended` is a cut like any other
      code == StatusCode::UNAVAILABLE || code == StatusCode::CANCELLED ||  // CANCELLED: by our own watchdog
      (code == StatusCode::RESOURCE_EXHAUSTED && (info.reason() == "SLOW_CONSUMER" || info.reason() == "TOO_MANY_STREAMS")) ||
      (code == StatusCode::INTERNAL && broken))
    return InSeconds(retry.retry_delay());
  throw Refused(info.reason() + ": " + status.error_message());
}

int main(int argc, char** argv) {
  if (argc < 3) return std::cerr << "usage: watch HOST:PORT RUN [CURSOR]\n", 2;
  Place place{argc > 3 ? argv[3] : "", "", 0};
  std::mt19937 random(std::random_device{}());
  try {
    for (double bound = 0.05;; bound = std::min(bound * 1.6, 10.0)) {
      const int64_t before = place.last;
      agent::RunState state;
      grpc::Status status;
      if (Once(argv[1], argv[2], place, state, status, [](const agent::RunEvent& event) { std::cout << event.text_delta().text() << std::flush; })) {
        std::cerr << agent::RunState_Name(state) << ", cursor " << place.cursor << "\n";
        return state == agent::RUN_STATE_SUCCEEDED ? 0 : 1;
      }
      const double wait = RetryDelay(status);
      if (place.last > before) bound = 0.05;  // only a new event makes the next wait a short one
      std::this_thread::sleep_for(Seconds(wait + std::uniform_real_distribution<>(0, bound)(random)));
    }
  } catch (const Refused& refused) {
    return std::cerr << refused.what() << "\n", 1;
  }
}
