# Two sets of files, as components of the installation:
#
#   python        the shared library in the Python package; scikit-build-core sets the prefix to its root
#   development   a package for C and C++: libraries, headers, find_package(dualbinary), pkg-config. It is all that a
#                 plain `cmake --install` installs, and it may be moved afterwards
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(python_targets dualbinary)
if(TARGET dualbinary_cuda)
  list(APPEND python_targets dualbinary_cuda)
endif()
install(
  TARGETS ${python_targets}
  LIBRARY DESTINATION runtime_ext COMPONENT python EXCLUDE_FROM_ALL
  RUNTIME DESTINATION runtime_ext COMPONENT python EXCLUDE_FROM_ALL)
install(FILES src/capi/dualbinary.h src/capi/dualbinary_onnxruntime.h DESTINATION runtime_ext/include COMPONENT python
                                                                                              EXCLUDE_FROM_ALL)

# The symbol by which a program finds the operators is in no call that a linker sees (RegisterCustomOpsUsingFunction of
# ONNX Runtime asks for it by name at run time): it has to be taken from the archive all the same, survive the removal of
# sections, and be in the program's table of dynamic symbols.
set(register_symbol RegisterDualBinaryCustomOps)
if(MSVC)
  set(keep_symbol "/INCLUDE:${register_symbol}") # it is exported by its declaration
elseif(APPLE)
  set(keep_symbol "LINKER:-u,_${register_symbol}") # programs export their global symbols there
else()
  set(keep_symbol "LINKER:-u,${register_symbol}" "LINKER:--export-dynamic-symbol=${register_symbol}")
endif()
target_link_options(dualbinary_static INTERFACE ${keep_symbol})
foreach(target dualbinary dualbinary_static)
  target_include_directories(${target} INTERFACE "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
endforeach()

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/dualbinary")
install(
  TARGETS dualbinary dualbinary_static
  EXPORT dualbinary
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT development)
if(TARGET dualbinary_cuda)
  # Beside libdualbinary, which opens it; nothing links to it.
  install(
    TARGETS dualbinary_cuda
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development NAMELINK_SKIP
    RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT development)
endif()
if(CMAKE_SYSTEM_NAME MATCHES "^(Linux|Android)$")
  # A program that is linked to libdualbinary.so asks for it by this name (../CMakeLists.txt says why it is another one).
  file(CREATE_LINK libdualbinary.so "${CMAKE_CURRENT_BINARY_DIR}/libdualbinary_loaded.so" SYMBOLIC)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/libdualbinary_loaded.so" DESTINATION "${CMAKE_INSTALL_LIBDIR}"
                                                                      COMPONENT development)
endif()
install(FILES src/capi/dualbinary.h src/capi/dualbinary_onnxruntime.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
                                                                      COMPONENT development)
install(EXPORT dualbinary NAMESPACE dualbinary:: FILE dualbinaryTargets.cmake DESTINATION "${package_dir}"
                                                                              COMPONENT development)

configure_package_config_file(cmake/dualbinaryConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/dualbinaryConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/dualbinaryConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dualbinaryConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/dualbinaryConfigVersion.cmake" DESTINATION "${package_dir}"
                                                                          COMPONENT development)

# pkg-config: dualbinary, and dualbinary-static for the archive, which has the same name for `-l` as the shared library.
file(RELATIVE_PATH prefix_of_pc "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
set(pc_prefix "\${pcfiledir}/${prefix_of_pc}")
list(TRANSFORM keep_symbol REPLACE "^LINKER:" "-Wl," OUTPUT_VARIABLE pc_keep_symbol)
list(JOIN pc_keep_symbol " " pc_keep_symbol)
set(pc_dl "")
if(CMAKE_DL_LIBS)
  set(pc_dl "-l${CMAKE_DL_LIBS}")
endif()
set(pc_cxx_library -lstdc++)
if(APPLE OR ANDROID)
  set(pc_cxx_library -lc++)
endif()
foreach(package dualbinary dualbinary-static)
  configure_file("cmake/${package}.pc.in" "${CMAKE_CURRENT_BINARY_DIR}/${package}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${package}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig"
                                                            COMPONENT development)
endforeach()
