#include "runloop/client/cli/app.h"

int main(int argc, char** argv) { return runloop::cli::Main(argc, argv); }
