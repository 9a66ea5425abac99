# Cross-compiling with the C++ compiler of zig, which has the C and C++ libraries of every target inside. tools/wheels/build.py
# gives the environment: DUALBINARY_ZIG, the folder of the program, and of a row of targets.toml the
# DUALBINARY_ZIG_TRIPLE, _SYSTEM and _PROCESSOR. From the environment, because CMake reads this file once more for each
# of its trials.
set(CMAKE_SYSTEM_NAME "$ENV{DUALBINARY_ZIG_SYSTEM}")
set(CMAKE_SYSTEM_PROCESSOR "$ENV{DUALBINARY_ZIG_PROCESSOR}")
set(CMAKE_CXX_COMPILER "$ENV{DUALBINARY_ZIG}" c++ -target "$ENV{DUALBINARY_ZIG_TRIPLE}")
# No trial of the compiler links a program: only a library is built.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_AR "$ENV{DUALBINARY_ZIG_AR}")
set(CMAKE_RANLIB "$ENV{DUALBINARY_ZIG_RANLIB}")
# Of libraries for macOS, CMake would change names when they are installed; they have none to change.
set(CMAKE_INSTALL_NAME_TOOL ":")
set(CMAKE_SKIP_RPATH ON)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
