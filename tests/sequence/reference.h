#ifndef RUNLOOP_TESTS_SEQUENCE_REFERENCE_H_
#define RUNLOOP_TESTS_SEQUENCE_REFERENCE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runloop/runtime/ledger.h"
#include "runloop/tests/sequence/inbox.h"
#include "runloop/tests/sequence/line.h"
#include "runloop/tests/sequence/program.h"
#include "runloop/tests/sequence/transport.h"

namespace runloop::sequence {

inline constexpr Millis kNever = std::numeric_limits<Millis>::max();
// Who opens sessions: three that other processes can be, and the host.
inline constexpr const char* kUsers[] = {"uid 1000", "uid 1001", "role camera"};
inline constexpr int kInProcess = 3;

// What happens on the runtime thread, in this order.
struct Event {
  enum class Kind { kStart, kClose, kDestroy };
  Kind kind;
  int id;  // of an invocation; of an object
  bool operator==(const Event&) const = default;
};

// The reference model: what a runtime promises, told in the plainest way, for one thread. It knows
// nothing of how the runtime does it: no locks, no atomics, no service thread; whatever the promise
// leaves to chance (which of several outcomes of one moment comes first) it does not say.
//
// Outcomes and answers are text (outcome_text.h).
class Reference {
 public:
  enum class State { kRefused, kDelayed, kQueued, kRunning, kDeferred, kEnded };

  struct Invocation {
    int id = kNone;
    int session = kNone;  // kNone: a closure
    Step step;            // what it does
    Millis deadline = kNever;
    int object = kNone;  // that it uses or releases
    int batch = kNone;   // the first of those that run in a row with it
    bool stops = false;  // never runs if one before it in the batch has failed
    int item = kNone;    // the first that it publishes

    State state = State::kRefused;
    bool given_up = false;        // nobody will look at its result
    bool has_completion = false;  // it left one, which has not been used yet
    std::string outcome;          // once it has ended
    const char* how = "";         // it ended: in words, for the table
    bool succeeded = false;       // so it ended
    int stopped_by = kNone;       // of the batch: the first that had failed
  };

  struct Object {
    enum class State { kHeld, kClosing, kGone };
    int id = kNone;
    int session = kNone;
    int maker = kNone;  // an invocation
    Closes closes = Closes::kNoMethod;
    State state = State::kGone;
    bool has_handle = false;
    bool may_say_closed = false;  // somebody else has the duty to
    Millis close_by = kNever;
    int releaser = kNone;  // an invocation that waits until it is closed
  };

  struct Session {
    int id = kNone;
    int user = kInProcess;
    Priority priority = Priority::kDefault;
    bool ended = false;
    bool closing = false;        // its objects are being closed, one after another
    bool listed = true;          // still one of the runtime's
    bool disconnecting = false;  // ends as soon as nothing is unfinished
    bool by_messages = false;    // what its worker asks for and hears travels in messages
    bool gone = false;           // and the worker has gone: nobody hears of outcomes
    uint64_t queued = 0, running = 0, finished = 0, bytes = 0;
    std::vector<int> objects;  // that it holds, by age
    std::set<int> given_up;    // invocations whose objects it holds and nobody wants
    bool releasing = false;    // a look at those stands in the line
    // By messages: what was published and is not on its way yet, and what becomes of the
    // connection.
    Inbox unsaid{NotificationBounds()};
    Cut cut = Cut::kNone;
    bool told_all = false;  // it ends, and its work is done: no notification more
    uint64_t dropped = 0;   // of its subscriptions, where it is published

    bool in_process() const { return user == kInProcess; }
    bool idle() const { return queued + running == 0; }
  };

  struct Subscription {
    int id = kNone;
    int session = kNone;
    bool latest = false;
    Inbox inbox{NotificationBounds()};  // in the subscriber's process
    bool stands = false;                // what is published goes to it
    bool over = false;                  // nobody has it any more
    bool gap = false;                   // to be told, of a connection that was lost
    uint64_t sequence = 0;              // of the last that was published
    uint64_t dropped = 0;               // told by what was taken
    std::string status;                 // once nothing waits
  };

  // What was published on a topic, and what became of it on its way to each subscription.
  struct Topic {
    uint64_t published = 0, dropped = 0, replaced = 0, sent = 0;
  };

  // What has to be seen.
  struct Expected {
    std::vector<Event> events;
    std::map<int, std::string> outcomes;  // of operations
  };

  // `meanwhile` is called when an invocation has started, before it does anything.
  Reference(const Setup& setup, std::function<void(int invocation)> meanwhile);

  // ---- what can be asked of a runtime ----

  int Open(int user, Priority priority);
  // Of an operation, or, where `session` is kNone, of a closure. Its answer: `queued`, or why it is
  // refused.
  std::string Dispatch(int session, const Step& step, int object);
  // Of all of a batch, whose dispatches and their objects they are: the answer to each.
  struct BatchTaken {
    std::string answer;
    int first = kNone;
    bool joined = false;  // the line; else it waits in its lane
  };
  BatchTaken DispatchBatch(int session, const Step& step, const std::vector<int>& objects);
  // A new dispatch with this key would take its place; kNone if there is none.
  int Keyed(int session, int key) const;
  bool Cancel(int invocation);
  // Of a closure with a delay; `elsewhere`: on a thread that is not the runtime's.
  bool CancelTimer(int invocation, bool elsewhere);
  // What it was. By messages one that has ended is forgotten, and one that was given up before is
  // said to have ended.
  State GiveUp(int invocation, OutcomeKind kind);
  void Forget(int invocation);
  void End(int session);
  // With kMake: whether the object was kept, and the object.
  struct Completed {
    std::string answer;
    int made = kNone;
  };
  Completed Complete(int invocation, Completing how, Closes closes);
  void FinishClosing(int object);
  void Advance(Millis by);
  // True if it stopped because of its budget.
  bool Run(int count);
  void BeginDrain() { draining_ = true; }
  struct Drained {
    bool drained = false;
    size_t not_closed = 0;
  };
  Drained Drain(Millis timeout);
  size_t Stop();

  // Its status: OK, or why it does not stand.
  std::string Subscribe(int session, const Step& step);
  void Unsubscribe(int subscription);
  // `only`: a session, or kNone.
  std::string Publish(const Step& step, int only);
  // At most so many.
  std::vector<Note> Take(int subscription, int count);

  // The worker of a session that speaks by messages hears what there is, or says something after
  // that; unless there is none.
  void Hear(int session);
  void Say(int session);
  void HearAll();
  void CutNext(int session, Cut what) { sessions_[session].cut = what; }

  // ---- what there is ----

  const Session& session(int id) const { return sessions_[id]; }
  const Invocation& invocation(int id) const { return invocations_[id]; }
  const Object& object(int id) const { return objects_[id]; }
  const std::deque<Session>& sessions() const { return sessions_; }
  const std::deque<Invocation>& invocations() const { return invocations_; }
  const std::deque<Object>& objects() const { return objects_; }
  const Subscription& subscription(int id) const { return subscriptions_[id]; }
  const std::deque<Subscription>& subscriptions() const { return subscriptions_; }
  const Topic& topic(bool latest) const { return topics_[latest ? 1 : 0]; }
  // The first item that is published next.
  int next_item() const { return next_item_; }
  // Connections were lost with something on its way: nobody knows what of it was sent.
  bool lost_notifications() const { return lost_notifications_; }
  // How often which end was met by notifications; the words are of static storage.
  const std::map<std::string_view, int64_t>& fates() const { return fates_; }

  void Disconnect(int session) { sessions_[session].disconnecting = true; }
  void SpeakByMessages(int session);
  // The worker goes.
  void Leave(int session);

  Millis now() const { return now_; }
  int running() const { return running_; }  // kNone: none
  bool draining() const { return draining_; }
  bool stopped() const { return stopped_; }
  bool anything_waits() const { return !line_.empty(); }
  size_t full_lanes() const { return line_.full_lanes(); }
  bool in_batch() const { return line_.in_batch(); }
  std::vector<const char*> TakeTurns() { return line_.TakeTurns(); }
  const Ledger::Counts& ledger() const { return ledger_; }
  // Unfinished, of a user's sessions or, with kNone, of all.
  Bound held(int user) const;

  // Since TakeExpected was called.
  const Expected& expected() const { return expected_; }
  Expected TakeExpected();

 private:
  // ---- what is taken in (reference_admission.cc) ----
  std::string Refusal(int session, const Step& step, const Invocation* instead_of) const;
  std::string WhyClosed(int session) const;
  // There is no room for so much more, of which `alone` is what stands or falls together.
  std::string WhyNoRoom(int session, const Bound& more, const Bound& alone) const;
  bool CountsBytes(int session) const {
    return session != kNone && !sessions_[session].in_process();
  }
  int Hear(int session, const Step& step, int object);
  void Admit(int invocation);
  Entry EntryOf(int invocation) const;

  // ---- batches (reference_batches.cc) ----
  // True if it does not start, since one before it has failed.
  bool StopsWithBatch(int invocation);

  // ---- running (reference.cc) ----
  void Start(int invocation);
  void Behave(Invocation& invocation);
  void RunEntry(const Entry& entry);
  bool RunSlice(int count);
  // A task of the runtime's own, unless nothing more is taken.
  void Push(Entry entry);
  void Happens(Event::Kind kind, int id) { expected_.events.push_back({kind, id}); }

  // ---- how an invocation ends (reference_outcomes.cc) ----
  // Unstarted and already out of the line, or running or deferred.
  void EndUnstarted(int invocation, OutcomeKind kind, const char* how);
  void Finish(int invocation, const std::string& outcome, const char* how);
  std::vector<int> TakeOut(const std::function<bool(const Invocation&)>& wanted);
  void AbortDeferred(int session, const std::string& outcome, const char* how);

  // ---- what has a delay (reference_delays.cc) ----
  void Delay(int invocation);
  // Lets what is due join the line, or end, if its deadline has passed.
  void JoinDue();
  // Takes them out, in the order of their times.
  std::vector<int> TakeDelayed(const std::function<bool(const Invocation&)>& wanted);
  static bool IsTimer(const Invocation& of) { return of.session == kNone && of.step.delay > 0; }

  // ---- objects (reference_objects.cc): from here to Watch as runtime/handle.h tells it ----
  int NewObject(int session, int maker, Closes closes);
  std::string Keep(int invocation, int object);
  void BeginClose(int object);
  void Destroy(int object, const std::string& outcome, const char* how);
  void CloseNext(int session);
  void ReleaseMade(int invocation);
  void DestroyOverdue();
  size_t DestroyAll(int session);
  void Watch(Millis close_by) { watch_closing_ = std::min(watch_closing_, close_by); }

  // ---- notifications (reference_notifications.cc) ----
  bool has_worker(int session) const {
    return sessions_[session].by_messages && !sessions_[session].gone;
  }
  // It sends no more, or the daemon drains: once its work is done there is nothing more to tell.
  bool IsEnding(int session) const { return sessions_[session].disconnecting || draining_; }
  bool IsSettled(int session) const;
  void Send(Subscription& to, int item, size_t bytes);
  void Arrive(Note note);
  void LoseConnection(int session);
  // Of a session, or, with kNone, all.
  void EndSubscriptions(int session, const std::string& status);
  void CountFates(const std::vector<Note>& notes, const char* how) {
    if (!notes.empty()) fates_[how] += static_cast<int64_t>(notes.size());
  }

  // ---- the end (reference_ends.cc) ----
  bool Reached(bool work) const;

  const Setup setup_;
  const std::function<void(int)> meanwhile_;

  Millis now_ = 0;
  bool draining_ = false;
  bool stopped_ = false;
  int running_ = kNone;
  Line line_;
  // By when each joins or expires, and their order.
  std::map<std::pair<Millis, int>, int> delayed_;
  int64_t stale_ = 0;  // timers that were cancelled, and whose closures wait to be destroyed
  Ledger::Counts ledger_;
  // Deques, since what runs may add to them.
  std::deque<Session> sessions_;
  std::deque<Invocation> invocations_;
  std::deque<Object> objects_;
  std::deque<Subscription> subscriptions_;
  Topic topics_[2];  // every, newest
  int next_item_ = 1;
  bool lost_notifications_ = false;
  std::map<std::string_view, int64_t> fates_;
  Millis watch_closing_ = kNever;  // when to look for objects that should have closed
  Expected expected_;
};

}  // namespace runloop::sequence

#endif  // RUNLOOP_TESTS_SEQUENCE_REFERENCE_H_
