// gRPC as its examples show it: one unary call an operation, which runs on gRPC's own threads.

#include <grpcpp/grpcpp.h>

#include <memory>

#include "runloop/benchmark/v1/work.grpc.pb.h"
#include "runloop/tests/benchmark/measure.h"
#include "runloop/tests/benchmark/peers/peer_server.h"
#include "runloop/tests/benchmark/processes.h"

namespace runloop::benchmark {
namespace {

class SyncService final : public v1::Work::Service {
  grpc::Status Operate(grpc::ServerContext*, const v1::OperateRequest* request,
                       v1::OperateReply* reply) override {
    reply->set_sum(work_.Operate(request->payload()));
    return grpc::Status::OK;
  }
  grpc::Status GetUsage(grpc::ServerContext*, const v1::GetUsageRequest*,
                        v1::GetUsageReply* reply) override {
    *reply = work_.GetUsage();
    return grpc::Status::OK;
  }

  PeerWork work_;
};

class CallbackService final : public v1::Work::CallbackService {
  grpc::ServerUnaryReactor* Operate(grpc::CallbackServerContext* context,
                                    const v1::OperateRequest* request,
                                    v1::OperateReply* reply) override {
    reply->set_sum(work_.Operate(request->payload()));
    return Finish(context);
  }
  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* context,
                                     const v1::GetUsageRequest*,
                                     v1::GetUsageReply* reply) override {
    *reply = work_.GetUsage();
    return Finish(context);
  }

  static grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  PeerWork work_;
};

template <typename Service>
int Serve(const std::string& socket) {
  Pin(Side::kRuntime);
  Service service;
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  Check(server != nullptr, "cannot listen");
  BecomeServer();
  server->Wait();
  return 0;
}

}  // namespace
}  // namespace runloop::benchmark

int main(int argc, char** argv) {
  using namespace runloop::benchmark;
  return MeasureSystems(argc, argv,
                        {{"grpc_sync", Serve<SyncService>, ConnectUnary, 20'000},
                         {"grpc_callback", Serve<CallbackService>, ConnectUnary, 20'000}});
}
