#ifndef RUNLOOP_RUNTIME_GLIB_GLIB_LOOP_H_
#define RUNLOOP_RUNTIME_GLIB_GLIB_LOOP_H_

#include <memory>

#include "runloop/runtime/run_loop.h"

typedef struct _GMainContext GMainContext;

namespace runloop {

struct GlibLoopOptions {
  // The context to join; the loop takes a reference of its own. Null: the default context, which
  // GTK and GStreamer's bus watches use.
  GMainContext* context = nullptr;
};

// A GLib main context as the run loop. Queued work is one source of G_PRIORITY_DEFAULT in it.
//
// After a slice that leaves work behind, the source rests until each ready source of lower priority
// (GTK's redraw at 120, idle callbacks at 200, down to G_PRIORITY_LOW) was dispatched, or, if those
// are always ready, for as long as the slice took: a flood of work starves no platform source, and
// no platform source starves the work.
//
// Run makes the context the thread's default one, so that g_idle_add's like and bus watches that
// operations add land here. Running it is optional: where gtk_main or a g_main_loop_run of the
// host's runs the context, the work is dispatched there. A main loop nested in an operation runs no
// other operation.
std::unique_ptr<RunLoop> NewGlibLoop(const GlibLoopOptions& options = {});

}  // namespace runloop

#endif  // RUNLOOP_RUNTIME_GLIB_GLIB_LOOP_H_
