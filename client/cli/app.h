#ifndef RUNLOOP_CLIENT_CLI_APP_H_
#define RUNLOOP_CLIENT_CLI_APP_H_

namespace runloop::cli {

// runloopctl: reads the command line, runs the one command on it and returns the exit code
// (ExitCode, or for `run` the command's own).
int Main(int argc, char** argv);

}  // namespace runloop::cli

#endif  // RUNLOOP_CLIENT_CLI_APP_H_
