#ifndef RUNLOOP_EXAMPLES_MP4_RECORDER_GST_PTR_H_
#define RUNLOOP_EXAMPLES_MP4_RECORDER_GST_PTR_H_

#include <gst/gst.h>

#include <memory>
#include <string>

namespace runloop::examples {

// Owning pointers to what GStreamer counts references of.
struct GstUnref {
  void operator()(GstObject* object) const { gst_object_unref(object); }
  void operator()(GstElement* element) const { gst_object_unref(element); }
  void operator()(GstPad* pad) const { gst_object_unref(pad); }
  void operator()(GstBus* bus) const { gst_object_unref(bus); }
  void operator()(GstCaps* caps) const { gst_caps_unref(caps); }
  void operator()(GstMessage* message) const { gst_message_unref(message); }
  void operator()(GstSample* sample) const { gst_sample_unref(sample); }
};

template <typename T>
using GstPtr = std::unique_ptr<T, GstUnref>;

// What an error message says, with the element that sent it, on one line.
inline std::string ErrorText(GstMessage* message) {
  GError* error = nullptr;
  gst_message_parse_error(message, &error, nullptr);
  std::string text = error->message;
  g_error_free(error);
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text + " (" + GST_MESSAGE_SRC_NAME(message) + ")";
}

}  // namespace runloop::examples

#endif  // RUNLOOP_EXAMPLES_MP4_RECORDER_GST_PTR_H_
