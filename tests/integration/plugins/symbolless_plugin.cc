// A shared library that is no plugin.
extern "C" int runloop_test_no_plugin() { return 0; }
