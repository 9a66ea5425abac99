# Cross-compiling for 64-bit Arm Linux with Debian's compiler: packages g++-aarch64-linux-gnu and, to run the result,
# qemu-user (tools/emulate.py).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(DUALBINARY_AARCH64_CXX aarch64-linux-gnu-g++)
if(NOT DUALBINARY_AARCH64_CXX)
  message(FATAL_ERROR "aarch64-linux-gnu-g++ was not found: install the Debian package g++-aarch64-linux-gnu")
endif()
set(CMAKE_CXX_COMPILER "${DUALBINARY_AARCH64_CXX}")
# Programs run on this machine; libraries and headers are the target's. ONNX Runtime's C headers are the same for all.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
