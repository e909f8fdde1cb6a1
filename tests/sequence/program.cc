#include "runloop/tests/sequence/program.h"

#include <initializer_list>
#include <random>
#include <utility>

namespace runloop::sequence {
namespace {

// The distributions of the standard library differ from one library to another; these do not.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  Setup MakeSetup() {
    // The larger one has room for more than a lane's depth (TaskQueue::kLaneDepth); the smaller
    // one is full soon.
    Setup setup{.max_handles = Chance(60) ? 2 : 5, .close_timeout = 400};
    if (Chance(40)) {
      setup.bounds = {.total = {.items = 110, .bytes = 9000},
                      .user = {.items = 75, .bytes = 6500},
                      .session = {.items = 56, .bytes = 5000}};
    } else {
      setup.bounds = {.total = {.items = 22, .bytes = 900},
                      .user = {.items = 15, .bytes = 600},
                      .session = {.items = 10, .bytes = 400}};
    }
    // Less than a burst (Publication) may have.
    setup.notifications = {.items = 8, .bytes = 300};
    return setup;
  }

  Step Open() {
    Step step = Any(StepKind::kOpen);
    step.elsewhere = Chance(10);
    step.priority = AnyPriority();
    return step;
  }

  Step Next() {
    // Something to be lost with the connection.
    if (std::exchange(after_cut_, false) && Chance(40)) return Of(StepKind::kPublish);
    Step step = Of(NextKind());
    after_cut_ = step.kind == StepKind::kCut;
    const bool runs_something = step.kind == StepKind::kDispatch || step.kind == StepKind::kClosure;
    if (runs_something && Chance(20)) step.meanwhile.push_back(Meanwhile(step));
    // Of closures that were taken together the first hands over what passes the others.
    if (step.kind == StepKind::kFill && step.fill_with == FillWith::kClosures && Chance(70)) {
      step.count = static_cast<int>(Between(2, 12));
      step.meanwhile.push_back(Of(StepKind::kFill));
    }
    for (Step& one : step.batch) {
      if (Chance(8)) one.meanwhile.push_back(Meanwhile(one));
    }
    return step;
  }

  Step Last() { return Of(Choose<StepKind>({{StepKind::kDrain, 70}, {StepKind::kStop, 30}})); }

 private:
  StepKind NextKind() {
    return Choose<StepKind>({
        // Work.
        {StepKind::kDispatch, 400},
        {StepKind::kClosure, 55},
        {StepKind::kFill, 24},
        {StepKind::kBatch, 80},
        // What becomes of it.
        {StepKind::kCancelTimer, 20},
        {StepKind::kComplete, 120},
        {StepKind::kFinishClosing, 45},
        {StepKind::kCancel, 45},
        {StepKind::kGiveUp, 45},
        {StepKind::kForget, 20},
        // Sessions.
        {StepKind::kOpen, 25},
        {StepKind::kKill, 22},
        {StepKind::kDisconnect, 15},
        {StepKind::kCut, 30},
        // Notifications.
        {StepKind::kSubscribe, 70},
        {StepKind::kUnsubscribe, 14},
        {StepKind::kPublish, 70},
        {StepKind::kTake, 60},
        // The runtime.
        {StepKind::kAdvance, 75},
        {StepKind::kRun, 150},
        {StepKind::kBeginDrain, 2},
        {StepKind::kDrain, 3},
        {StepKind::kStop, 2},
    });
  }

  // A step that something else takes while the handler or closure of `step` runs.
  Step Meanwhile(const Step& step) {
    const bool is_timer = step.kind == StepKind::kClosure && step.delay > 0;
    if (is_timer && Chance(20)) return Of(StepKind::kCancelTimer);
    if (step.behaviour == Behaviour::kPublish && Chance(40)) return Of(StepKind::kKill);
    return Of(Choose<StepKind>({{StepKind::kDispatch, 20},
                                {StepKind::kBatch, 4},
                                {StepKind::kClosure, 12},
                                {StepKind::kCancelTimer, 24},
                                {StepKind::kCancel, 20},
                                {StepKind::kGiveUp, 24},
                                {StepKind::kKill, 12},
                                {StepKind::kComplete, 12},
                                {StepKind::kFinishClosing, 8},
                                {StepKind::kAdvance, 8},
                                {StepKind::kSubscribe, 6},
                                {StepKind::kUnsubscribe, 4},
                                {StepKind::kPublish, 14},
                                {StepKind::kTake, 6},
                                {StepKind::kRun, 4},
                                {StepKind::kBeginDrain, 1}}));
  }

  Step Any(StepKind kind) {
    Step step;
    step.kind = kind;
    step.pick = static_cast<uint32_t>(random_());
    step.pick_more = static_cast<uint32_t>(random_());
    return step;
  }

  Step Of(StepKind kind) {
    Step step = Any(kind);
    step.elsewhere = Chance(6);
    step.aim = Choose<Aim>(
        {{Aim::kQueued, 40}, {Aim::kDeferred, 35}, {Aim::kEnded, 10}, {Aim::kRunning, 30}});
    step.closes = Choose<Closes>({{Closes::kNoMethod, 25},
                                  {Closes::kAtOnce, 20},
                                  {Closes::kThrows, 8},
                                  {Closes::kLater, 35},
                                  {Closes::kNever, 12}});
    switch (kind) {
      case StepKind::kDispatch:
        step.behaviour = Choose<Behaviour>({{Behaviour::kSucceed, 14},
                                            {Behaviour::kFail, 8},
                                            {Behaviour::kThrow, 8},
                                            {Behaviour::kDropCompletion, 8},
                                            {Behaviour::kMake, 26},
                                            {Behaviour::kUse, 14},
                                            {Behaviour::kPublish, 14},
                                            {Behaviour::kRelease, 22},
                                            {Behaviour::kDefer, 22},
                                            {Behaviour::kMakeAndDefer, 12}});
        step.whose = Choose<Whose>({{Whose::kOwn, 60},
                                    {Whose::kStale, 15},
                                    {Whose::kOtherSessions, 15},
                                    {Whose::kOfOtherType, 10}});
        if (Chance(40)) step.deadline = Between(2, 9) * 50;
        if (Chance(20)) step.delay = Between(1, 8) * 50;
        if (Chance(25)) step.key = static_cast<int>(Between(1, 2));
        step.bytes = static_cast<int>(Chance(90) ? Between(1, 60) : Between(100, 450));
        if (step.behaviour == Behaviour::kPublish) Publication(step);
        break;
      case StepKind::kSubscribe:
        step.latest = Chance(40);
        step.room =
            Choose<Room>({{Room::kAmple, 45}, {Room::kFewItems, 35}, {Room::kFewBytes, 20}});
        break;
      case StepKind::kPublish:
        step.elsewhere = Chance(35);
        Publication(step);
        break;
      case StepKind::kTake:
        step.count = static_cast<int>(Chance(65) ? Between(1, 3) : 1000);
        break;
      case StepKind::kClosure:
        step.behaviour = Chance(75) ? Behaviour::kSucceed : Behaviour::kThrow;
        if (Chance(40)) step.delay = Between(1, 8) * 50;
        step.priority = AnyPriority();
        break;
      case StepKind::kBatch:
        FillBatch(step);
        break;
      case StepKind::kComplete:
        step.aim = Chance(60) ? Aim::kDeferred : Aim::kEnded;
        step.completing =
            Choose<Completing>({{Completing::kSucceed, 35},
                                {Completing::kFail, 15},
                                {Completing::kDrop, 20},
                                {Completing::kMake, step.aim == Aim::kEnded ? 160 : 30}});
        break;
      case StepKind::kFill:
        step.fill_with = Choose<FillWith>({{FillWith::kOneSession, 40},
                                           {FillWith::kOneUser, 30},
                                           {FillWith::kAllSessions, 30},
                                           {FillWith::kClosures, 30}});
        // Either the items or the bytes are used up first.
        step.bytes = Chance(50) ? 1 : static_cast<int>(Between(60, 110));
        if (Chance(30)) step.deadline = Between(2, 9) * 50;
        break;
      case StepKind::kAdvance:
        step.time = Between(1, 5) * 50;
        break;
      case StepKind::kDrain:
        step.time = Chance(65) ? 1000 : 0;
        break;
      case StepKind::kRun:
        step.count = static_cast<int>(Chance(65) ? Between(1, 6) : 1000);
        break;
      default:
        break;
    }
    return step;
  }

  void FillBatch(Step& step) {
    step.stop_at_failure = Chance(60);
    step.flaw = Choose<Flaw>({{Flaw::kNone, 90}, {Flaw::kUnknown, 5}, {Flaw::kKey, 5}});
    const int64_t size = Chance(75) ? Between(1, 8) : Between(9, 40);
    const Millis deadline = Chance(40) ? Between(2, 9) * 50 : 0;  // of all
    const bool own_deadlines = Chance(20);
    for (int64_t i = 0; i < size; ++i) {
      Step& one = step.batch.emplace_back(Of(StepKind::kDispatch));
      one.delay = 0;
      one.key = 0;
      if (!own_deadlines) one.deadline = deadline;
      // Many fit beside each other.
      if (size > 8) one.bytes = static_cast<int>(Between(1, 40));
      // Else one in two stops it soon.
      if (Chance(50)) {
        one.behaviour = Behaviour::kSucceed;
      } else if (Chance(40)) {
        // What is rare elsewhere.
        one.behaviour = Choose<Behaviour>({{Behaviour::kMakeAndDefer, 35},
                                           {Behaviour::kDefer, 30},
                                           {Behaviour::kDropCompletion, 15},
                                           {Behaviour::kUse, 10},
                                           {Behaviour::kFail, 10}});
      }
    }
  }

  Priority AnyPriority() {
    return Choose<Priority>(
        {{Priority::kInteractive, 30}, {Priority::kDefault, 45}, {Priority::kBackground, 25}});
  }

  // What is published: one item, or a burst of them.
  void Publication(Step& step) {
    step.latest = Chance(35);
    step.to_session = Chance(30);
    step.count = static_cast<int>(Chance(70) ? 1 : Between(2, 12));
    step.item_bytes = static_cast<int>(Chance(80)   ? Between(kLeastItemBytes, 40)
                                       : Chance(75) ? Between(50, 132)
                                                    : Between(250, 500));
  }

  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(int percent) { return Between(1, 100) <= percent; }

  template <typename T>
  T Choose(std::initializer_list<std::pair<T, int>> weights) {
    int64_t sum = 0;
    for (const auto& [value, weight] : weights) sum += weight;
    int64_t point = Between(1, sum);
    for (const auto& [value, weight] : weights) {
      point -= weight;
      if (point <= 0) return value;
    }
    return weights.begin()->first;
  }

  std::mt19937_64 random_;
  bool after_cut_ = false;
};

}  // namespace

Program Generate(uint64_t seed, int steps) {
  Generator generator(seed);
  Program program{.setup = generator.MakeSetup(), .steps = {}};
  for (int i = 0; i < kSessionsAtStart; ++i) program.steps.push_back(generator.Open());
  for (int i = 0; i < steps; ++i) program.steps.push_back(generator.Next());
  program.steps.push_back(generator.Last());
  return program;
}

}  // namespace runloop::sequence
