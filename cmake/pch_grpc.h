// pch_base.h and gRPC. Never included by hand.
#include <grpcpp/grpcpp.h>

#include "pch_base.h"
