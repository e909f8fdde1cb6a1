#include "runloop/client/cli/app.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/time/time.h"
#include "runloop/client/cli/commands.h"
#include "runloop/client/cli/text.h"

namespace runloop::cli {
namespace {

constexpr char kExamples[] = R"(examples:
  runloopctl status                                      what the runtime thread does now
  runloopctl operations --describe acme.v1.Clock/Now     an operation's types
  runloopctl call acme.v1.Clock/Now '{"zone": "UTC"}'    one operation, JSON in and out
  runloopctl watch acme.v1.Clock/Tick                    what the host publishes, line by line
  runloopctl run -- ./worker --fps 30                    a worker that sees one socket
  runloopctl drain                                       the daemon's end, once its work is done

exit codes: 0 done, 1 the call failed, 2 usage, 69 no daemon; `run` ends with the command's own.)";

constexpr char kStatusExamples[] = R"(examples:
  runloopctl status
  runloopctl --json status | jq .thread.state
  runloopctl --json status 2>&1 >/dev/null | jq -r .reason     (what an error is called)
  runloopctl --address /run/acme/acme.sock status)";

constexpr char kOperationsExamples[] = R"(examples:
  runloopctl operations
  runloopctl operations --describe acme.v1.Clock/Now
  runloopctl --json operations --describe acme.v1.Clock/Now   (a FileDescriptorSet))";

constexpr char kCallExamples[] = R"(examples:
  runloopctl call acme.v1.Clock/Now
  runloopctl call acme.v1.Clock.Now '{"zone": "UTC"}'
  jq -n '{zone: "UTC"}' | runloopctl call acme.v1.Clock/Now - --timeout 5s

Each call is a session of its own: what it opens is closed at its end, and a handle is good for no other call.)";

constexpr char kWatchExamples[] = R"(examples:
  runloopctl watch                                            the topics
  runloopctl watch acme.v1.Writer/Progress acme.v1.Writer/Error
  runloopctl --json watch acme.v1.Writer/Progress | jq .message

One line a notification, until it is interrupted. What the host publishes to one session is not shown.)";

constexpr char kDrainExamples[] = R"(examples:
  runloopctl drain
  runloopctl drain --timeout 2m && echo 'nothing was cut off'
  runloopctl drain --no-wait
  runloopctl drain --json | jq .cutOff

The daemon refuses new work, runs what it has admitted, closes and ends: as at SIGTERM. A drain that has begun goes on
with its own deadline. A signal during a drain ends the daemon at once.
exit codes: 0 it has drained, 1 it was cut off, killed or crashed before, or did not end, 2 usage, 69 no
daemon.)";

constexpr char kRunExamples[] = R"(examples:
  runloopctl run -- ./worker --fps 30
  runloopctl run --role recorder --bind /srv/videos -- /opt/acme/bin/recorder
  runloopctl run --ro-bind /opt/acme/lib --setenv LD_LIBRARY_PATH=/opt/acme/lib -- /opt/acme/bin/recorder
  runloopctl run --no-sandbox -- ./worker

In the sandbox there is /usr, an empty /tmp and home, and the socket that RUNLOOP_ADDRESS names: no network, no other
process. A command outside /usr brings the directory that it lies in, read-only.)";

absl::Duration ParseTimeout(const std::string& text) {
  absl::Duration timeout;
  const bool bare = !text.empty() && absl::ascii_isdigit(static_cast<unsigned char>(text.back()));
  if (!absl::ParseDuration(bare ? text + "s" : text, &timeout) || timeout <= absl::ZeroDuration()) {
    throw CLI::ValidationError("--timeout",
                               "'" + text + "' is not a time such as 5s, 500ms or inf");
  }
  return timeout;
}

// A drain's. What the daemon would not grant is an error, and not something else.
absl::Duration ParseDrainTimeout(const std::string& text) {
  const absl::Duration timeout = ParseTimeout(text);
  if (timeout <= kLongestDrain || timeout == absl::InfiniteDuration()) return timeout;
  throw CLI::ValidationError("--timeout",
                             "a drain takes a day at most, not " + text + "; inf means a day");
}

// CLI11 would take what follows for the value.
void RefuseEmptyValues(int argc, char** argv) {
  for (int i = 1; i < argc && std::string(argv[i]) != "--"; ++i) {
    const std::string argument = argv[i];
    if (argument.size() > 3 && argument.substr(0, 2) == "--" &&
        argument.find('=') == argument.size() - 1) {
      throw CLI::ValidationError(argument.substr(0, argument.size() - 1), "no value after the `=`");
    }
  }
}

// Before the command line is known to be one.
bool HasJson(int argc, char** argv) {
  for (int i = 1; i < argc && std::string(argv[i]) != "--"; ++i) {
    if (std::string(argv[i]) == "--json") return true;
  }
  return false;
}

// The first word that is no option, nor the value of one that stands before a command.
std::string FirstWord(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--address" || argument == "--timeout") {
      ++i;
    } else if (argument.substr(0, 1) != "-") {
      return argument;
    }
  }
  return "";
}

// Why the command line is none.
std::string Explain(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const std::string word = FirstWord(argc, argv);
  if (!app.get_subcommands().empty() || word.empty()) return error.what();
  std::vector<std::string> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == word) return error.what();
    commands.push_back(command->get_name());
  }
  const std::vector<std::string> near = NearNames(word, commands, 1);
  return "there is no command '" + word + "'" +
         (near.empty() ? "" : "; did you mean '" + near.front() + "'?");
}

struct Options {
  DrainOptions drain;
  GlobalOptions global;
  OperationsOptions operations;
  CallOptions call;
  WatchOptions watch;
  RunOptions run;
};

void AddGlobal(CLI::App& app, GlobalOptions& global) {
  app.add_option("--address", global.address,
                 "The daemon's socket: unix:/path or /path. Default: RUNLOOP_ADDRESS, or the "
                 "default socket")
      ->type_name("ADDRESS");
  app.add_flag("--json", global.json, "Print JSON; of an error, to stderr");
  app.add_option_function<std::string>(
         "--timeout", [&global](const std::string& text) { global.timeout = ParseTimeout(text); },
         "How long to wait for the daemon, such as 5s or 500ms; inf: for ever. Default: 10s")
      ->type_name("TIME");
  app.set_version_flag("--version", "runloopctl " RUNLOOP_VERSION);
}

CLI::App* AddOperations(CLI::App& app, OperationsOptions& options) {
  CLI::App* command =
      app.add_subcommand("operations", "List the operations with their counts and times");
  command
      ->add_option("--describe", options.describe, "Show the types of one operation as .proto text")
      ->type_name("NAME");
  command->footer(kOperationsExamples);
  return command;
}

CLI::App* AddCall(CLI::App& app, CallOptions& options) {
  CLI::App* command = app.add_subcommand("call", "Call one operation with JSON");
  command->add_option("METHOD", options.method, "package.Service/Method")->required();
  command->add_option("JSON", options.request, "The request; `-` reads it from stdin. Default: {}");
  command->footer(kCallExamples);
  return command;
}

CLI::App* AddWatch(CLI::App& app, WatchOptions& options) {
  CLI::App* command = app.add_subcommand("watch", "Print what the host publishes, or list topics");
  command->add_option("TOPIC", options.topics, "package.Something/Word; none: list the topics");
  command->footer(kWatchExamples);
  return command;
}

CLI::App* AddDrain(CLI::App& app, DrainOptions& options) {
  CLI::App* command = app.add_subcommand("drain", "End the daemon once its work is done");
  command
      ->add_option_function<std::string>(
          "--timeout",
          [&options](const std::string& text) { options.timeout = ParseDrainTimeout(text); },
          "What has not run by then is abandoned, such as 10s or 2m; a day at most. Default: the "
          "daemon's own")
      ->type_name("TIME");
  command->add_flag_callback(
      "--no-wait", [&options] { options.wait = false; }, "Do not wait for the daemon's end");
  command->add_flag("--progress", options.progress,
                    "Say on stderr what is left, as on a terminal, whenever it changes");
  command->footer(kDrainExamples);
  return command;
}

CLI::App* AddRun(CLI::App& app, RunOptions& options) {
  CLI::App* command =
      app.add_subcommand("run", "Run a worker in a sandbox in which it can reach the daemon");
  command->add_option("--role", options.role, "The role it is let in under. Default: worker")
      ->type_name("NAME");
  CLI::Option* no_sandbox = command->add_flag_callback(
      "--no-sandbox", [&options] { options.sandbox = false; },
      "Run it without a sandbox, with a role socket all the same");
  command
      ->add_option("--ro-bind", options.read_only_binds, "Show it a file or directory, read-only")
      ->type_name("PATH")
      ->allow_extra_args(false)
      ->excludes(no_sandbox);
  command->add_option("--bind", options.binds, "Show it a file or directory that it may write")
      ->type_name("PATH")
      ->allow_extra_args(false)
      ->excludes(no_sandbox);
  command->add_option("--setenv", options.environment, "Set a variable of its environment")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command->add_flag("--verbose", options.verbose, "Say what the sandbox holds");
  command->add_option("COMMAND", options.command, "What to run, after --")->required();
  command->positionals_at_end();
  command->footer(kRunExamples);
  return command;
}

}  // namespace

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Looks at and talks to a runloop daemon.", "runloopctl");
  AddGlobal(app, options.global);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kExamples);
  CLI::App* status = app.add_subcommand("status", "Show thread, queue, ledger and sessions");
  status->footer(kStatusExamples);
  CLI::App* operations = AddOperations(app, options.operations);
  CLI::App* call = AddCall(app, options.call);
  CLI::App* watch = AddWatch(app, options.watch);
  AddRun(app, options.run);
  CLI::App* drain = AddDrain(app, options.drain);
  try {
    PrintErrorsAsJson(HasJson(argc, argv));
    RefuseEmptyValues(argc, argv);
    // As `git help` is.
    if (FirstWord(argc, argv) == "help") throw CLI::CallForHelp();
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return Fail(UsageError(Explain(app, error, argc, argv) + "; see `runloopctl --help`"));
  }
  int code;
  if (status->parsed()) {
    code = RunStatus(options.global);
  } else if (operations->parsed()) {
    code = RunOperations(options.global, options.operations);
  } else if (call->parsed()) {
    code = RunCall(options.global, options.call);
  } else if (watch->parsed()) {
    code = RunWatch(options.global, options.watch);
  } else if (drain->parsed()) {
    code = RunDrain(options.global, options.drain);
  } else {
    return RunRun(options.global, options.run);
  }
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int failed = Fail(absl::DataLossError("cannot write what there is to print to stdout"));
  return code == kOk ? failed : code;
}

}  // namespace runloop::cli
