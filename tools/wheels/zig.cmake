# Cross-compiling with the C++ compiler of zig, which has the C and C++ libraries of every target inside. tools/wheels/build.py
# sets DUALBINARY_ZIG_CXX, _AR and _RANLIB, scripts for one target, and of its row of targets.toml _SYSTEM and _PROCESSOR:
# in the environment, because CMake reads this file once more for each of its trials.
set(CMAKE_SYSTEM_NAME "$ENV{DUALBINARY_ZIG_SYSTEM}")
set(CMAKE_SYSTEM_PROCESSOR "$ENV{DUALBINARY_ZIG_PROCESSOR}")
set(CMAKE_CXX_COMPILER "$ENV{DUALBINARY_ZIG_CXX}")
# No trial of the compiler links a program: only a library is built.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_AR "$ENV{DUALBINARY_ZIG_AR}")
set(CMAKE_RANLIB "$ENV{DUALBINARY_ZIG_RANLIB}")
# Of libraries for macOS, CMake would change names when they are installed; they have none to change.
set(CMAKE_INSTALL_NAME_TOOL ":")
set(CMAKE_SKIP_RPATH ON)
# zig would describe everything for a debugger, and "-s" leave it out again.
set(CMAKE_CXX_FLAGS_INIT "-g0")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-s")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
