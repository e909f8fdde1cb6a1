#ifndef RUNLOOP_TESTS_TESTING_CUT_CONNECTIONS_H_
#define RUNLOOP_TESTS_TESTING_CUT_CONNECTIONS_H_

#include <string>

namespace runloop {

// Shuts down the workers' ends of this process's connections to the socket at `path`, the stream's
// and the side channels', as a network would: nobody's code has a part in it. `only`: the one that
// comes so many-th, counted from 0 and around; all, if it is negative. Returns how many were cut.
int CutConnections(const std::string& path, int only = -1);

}  // namespace runloop

#endif  // RUNLOOP_TESTS_TESTING_CUT_CONNECTIONS_H_
