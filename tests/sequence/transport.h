#ifndef RUNLOOP_TESTS_SEQUENCE_TRANSPORT_H_
#define RUNLOOP_TESTS_SEQUENCE_TRANSPORT_H_

#include <cstdint>

namespace runloop::sequence {

// What the sessions of other processes are carried by.
enum class Transport {
  kLocal,   // the driver calls the runtime itself, as a transport would
  kStream,  // daemon::SessionProtocol, as a session stream uses it
  kRing,    // daemon::RingServer, and rings in shared memory
};

// What is lost with a connection: the next request of the worker, what the daemon answers to that,
// or what there is to hear from the next step on.
enum class Cut { kNone, kRequest, kResponse, kHeard };

// Every request fits in so few bytes and can be padded to any number from here on: by messages no
// smaller one is sent, since what a request counts for is what it has.
inline constexpr int kLeastRequestBytes = 13;

// What the daemon allows of one message; none here is so large.
inline constexpr int64_t kMaxMessageBytes = int64_t{1} << 20;

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_TRANSPORT_H_
