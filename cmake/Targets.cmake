# How each target of the project is built: one function a kind of target.

# "runloop/runtime/runtime.h" is the same include in this tree and where the package is installed.
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/include)
file(CREATE_LINK ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/include/runloop SYMBOLIC)
set(RUNLOOP_GENERATED_DIR ${PROJECT_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${RUNLOOP_GENERATED_DIR})

add_library(runloop_flags INTERFACE)
target_compile_features(runloop_flags INTERFACE cxx_std_20)
target_include_directories(runloop_flags INTERFACE ${PROJECT_BINARY_DIR}/include)
target_include_directories(runloop_flags SYSTEM INTERFACE ${RUNLOOP_GENERATED_DIR})
# One set of code generation flags for libraries and programs, so that both share a precompiled header.
target_compile_options(runloop_flags INTERFACE -fPIC -pthread -Wall -Wextra -Werror -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(runloop_flags INTERFACE -Wthread-safety -Wshadow-all -Wno-shadow-field-in-constructor
    "SHELL:-Xclang -fno-pch-timestamp")
endif()
if(RUNLOOP_SANITIZE)
  target_compile_options(runloop_flags INTERFACE -fsanitize=${RUNLOOP_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(runloop_flags INTERFACE -fsanitize=${RUNLOOP_SANITIZE})
endif()

# The headers that nearly every source includes, compiled once for each kind.
foreach(kind base grpc)
  add_library(runloop_pch_${kind} OBJECT ${PROJECT_SOURCE_DIR}/cmake/pch_${kind}.cc)
  target_include_directories(runloop_pch_${kind} PRIVATE ${PROJECT_SOURCE_DIR}/cmake)
  target_link_libraries(runloop_pch_${kind} PRIVATE runloop_flags absl::status absl::statusor
    absl::synchronization absl::time absl::strings absl::any_invocable protobuf::libprotobuf)
endforeach()
target_link_libraries(runloop_pch_grpc PRIVATE gRPC::grpc++)
# In angle brackets: the absolute path that CMake would write instead makes ccache miss in every other checkout.
target_precompile_headers(runloop_pch_base PRIVATE <pch_base.h>)
target_precompile_headers(runloop_pch_grpc PRIVATE <pch_grpc.h>)

function(_runloop_common target pch)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:runloop_flags>)
  set_target_properties(${target} PROPERTIES DEFINE_SYMBOL "" POSITION_INDEPENDENT_CODE OFF)
  if(pch)
    target_precompile_headers(${target} REUSE_FROM runloop_pch_${pch})
  endif()
endfunction()

# What is installed finds its libraries wherever the prefix lies.
set(CMAKE_INSTALL_RPATH "$ORIGIN" "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")

# runloop_library(name SOURCES ... [DEPS public ...] [PRIVATE_DEPS ...] [PCH base|grpc])
# A shared library, installed as runloop::name. Shared, so that a plugin and its daemon have one copy.
function(runloop_library name)
  cmake_parse_arguments(ARG "" "PCH" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(runloop_${name} SHARED ${ARG_SOURCES})
  add_library(runloop::${name} ALIAS runloop_${name})
  target_link_libraries(runloop_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  target_include_directories(runloop_${name} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set_target_properties(runloop_${name} PROPERTIES
    EXPORT_NAME ${name} VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
  _runloop_common(runloop_${name} "${ARG_PCH}")
  # A dispatch makes some twenty calls within a library, which nobody replaces: they are direct.
  target_compile_options(runloop_${name} PRIVATE -fno-semantic-interposition)
  target_link_options(runloop_${name} PRIVATE -Wl,-Bsymbolic-functions)
  set_property(GLOBAL APPEND PROPERTY RUNLOOP_INSTALLED_TARGETS runloop_${name})
endfunction()

# runloop_program(name SOURCES ... [DEPS ...] [PCH base|grpc])
function(runloop_program name)
  cmake_parse_arguments(ARG "" "PCH" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  _runloop_common(${name} "${ARG_PCH}")
endfunction()

# runloop_plugin(name SOURCES ... [DEPS ...] [PCH base|grpc]): lib/plugins/name.so
function(runloop_plugin name)
  cmake_parse_arguments(ARG "" "PCH" "SOURCES;DEPS" ${ARGN})
  add_library(${name} MODULE ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE runloop::runtime ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib/plugins)
  _runloop_common(${name} "${ARG_PCH}")
endfunction()

# runloop_test(name SOURCES ... [DEPS ...] [PCH base|grpc] [TIMEOUT seconds]): one GoogleTest program, one ctest entry.
set(RUNLOOP_TEST_ENVIRONMENT)
if(RUNLOOP_SANITIZE STREQUAL "thread")
  set(RUNLOOP_TEST_ENVIRONMENT
    "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/testing/tsan/suppressions.txt:halt_on_error=1:second_deadlock_stack=1")
endif()

function(runloop_test name)
  if(NOT RUNLOOP_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "PCH;TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  find_package(GTest QUIET)
  if(NOT GTest_FOUND)
    message(FATAL_ERROR "The tests need GoogleTest: run `deploy/install-packages test`, or configure with -DRUNLOOP_TESTS=OFF")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  _runloop_common(${name} "${ARG_PCH}")
  runloop_sanitized_test(${name})
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
    ENVIRONMENT "${RUNLOOP_TEST_ENVIRONMENT}")
endfunction()

# Makes ThreadSanitizer see Abseil's mutexes, which Debian builds without it.
function(runloop_sanitized_test target)
  if(RUNLOOP_SANITIZE STREQUAL "thread")
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:runloop_tsan_absl>)
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  endif()
endfunction()

# runloop_protos(name PROTOS file... IMPORT_DIR dir [GRPC] [DEPS ...]): generated code as a shared library
# runloop_name, included as the proto is named below IMPORT_DIR.
function(runloop_protos name)
  cmake_parse_arguments(ARG "GRPC" "IMPORT_DIR" "PROTOS;DEPS" ${ARGN})
  set(sources)
  foreach(proto ${ARG_PROTOS})
    string(REGEX REPLACE "\\.proto$" "" base ${proto})
    set(outputs ${RUNLOOP_GENERATED_DIR}/${base}.pb.cc ${RUNLOOP_GENERATED_DIR}/${base}.pb.h)
    set(plugin)
    if(ARG_GRPC)
      list(APPEND outputs ${RUNLOOP_GENERATED_DIR}/${base}.grpc.pb.cc ${RUNLOOP_GENERATED_DIR}/${base}.grpc.pb.h)
      set(plugin --grpc_out=${RUNLOOP_GENERATED_DIR} --plugin=protoc-gen-grpc=${RUNLOOP_GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(OUTPUT ${outputs}
      COMMAND protobuf::protoc -I${ARG_IMPORT_DIR} -I${PROJECT_SOURCE_DIR}/proto
        --cpp_out=${RUNLOOP_GENERATED_DIR} ${plugin} ${ARG_IMPORT_DIR}/${proto}
      DEPENDS ${ARG_IMPORT_DIR}/${proto} VERBATIM)
    list(APPEND sources ${outputs})
  endforeach()
  add_library(runloop_${name} SHARED ${sources})
  add_library(runloop::${name} ALIAS runloop_${name})
  target_include_directories(runloop_${name} SYSTEM PUBLIC
    $<BUILD_INTERFACE:${RUNLOOP_GENERATED_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(runloop_${name} PUBLIC cxx_std_20)
  target_compile_options(runloop_${name} PRIVATE -fPIC -w)
  target_link_libraries(runloop_${name} PUBLIC protobuf::libprotobuf ${ARG_DEPS})
  if(ARG_GRPC)
    target_link_libraries(runloop_${name} PUBLIC gRPC::grpc++)
  endif()
  set_target_properties(runloop_${name} PROPERTIES
    EXPORT_NAME ${name} VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} DEFINE_SYMBOL ""
    POSITION_INDEPENDENT_CODE OFF LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
  if(RUNLOOP_SANITIZE)
    target_compile_options(runloop_${name} PRIVATE -fsanitize=${RUNLOOP_SANITIZE})
    target_link_options(runloop_${name} PRIVATE -fsanitize=${RUNLOOP_SANITIZE})
  endif()
endfunction()
