# What `cmake --install` installs, and the package that find_package(runloop) finds.
include(CMakePackageConfigHelpers)

get_property(targets GLOBAL PROPERTY RUNLOOP_INSTALLED_TARGETS)
install(TARGETS ${targets} runloop_proto runloop_service_proto runloop_grpc_services_proto EXPORT runloop
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(program runloopd runloopctl)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

# The public headers, and those that they include.
foreach(folder runtime client daemon)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/runloop/${folder}
    FILES_MATCHING PATTERN "*.h" PATTERN "cli" EXCLUDE PATTERN "testing" EXCLUDE)
endforeach()
install(DIRECTORY ${RUNLOOP_GENERATED_DIR}/runloop/v1 DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/runloop
  FILES_MATCHING PATTERN "*.pb.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/proto/runloop/v1 DESTINATION ${CMAKE_INSTALL_DATADIR}/runloop/proto/runloop
  FILES_MATCHING PATTERN "*.proto")

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/runloop)
install(EXPORT runloop NAMESPACE runloop:: FILE runloopTargets.cmake DESTINATION ${package_dir})
set(RUNLOOP_PROTO_DIR ${CMAKE_INSTALL_DATADIR}/runloop/proto)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/runloopConfig.cmake.in
  ${PROJECT_BINARY_DIR}/runloopConfig.cmake INSTALL_DESTINATION ${package_dir} PATH_VARS RUNLOOP_PROTO_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/runloopConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/runloopConfig.cmake ${PROJECT_BINARY_DIR}/runloopConfigVersion.cmake
  DESTINATION ${package_dir})
