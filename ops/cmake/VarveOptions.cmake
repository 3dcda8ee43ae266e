# Options, warnings, sanitizers, ccache and the CUDA probe, for every target of the project.
option(VARVE_WERROR "Treat warnings as errors" OFF)
option(VARVE_TESTS "Build the tests" ON)
set(VARVE_SANITIZE "" CACHE STRING "Sanitizers, comma separated: address,undefined or thread")
set(VARVE_CUDA "AUTO" CACHE STRING "Build the CUDA backend: AUTO (if nvcc is found), ON or OFF")
set_property(CACHE VARVE_CUDA PROPERTY STRINGS AUTO ON OFF)

find_program(VARVE_CCACHE ccache)
if(VARVE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${VARVE_CCACHE})
endif()

find_package(Threads REQUIRED)

# What every target compiles with.
add_library(varve_flags INTERFACE)
target_include_directories(varve_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(varve_flags INTERFACE -Wall -Wextra -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers)
target_link_libraries(varve_flags INTERFACE Threads::Threads)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(varve_flags INTERFACE -fcoroutines)
endif()
if(VARVE_WERROR)
  # gcc 12 sees uninitialised members in moved-from optionals where there are none (its bug 80635).
  target_compile_options(varve_flags INTERFACE -Werror -Wno-error=maybe-uninitialized)
endif()
if(VARVE_SANITIZE)
  target_compile_options(varve_flags INTERFACE -fsanitize=${VARVE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(varve_flags INTERFACE -fsanitize=${VARVE_SANITIZE})
  if(VARVE_SANITIZE STREQUAL "thread")
    # The thread sanitizer does not understand fences; Boost.Asio's stand beside mutexes, which it does.
    target_compile_definitions(varve_flags INTERFACE BOOST_ASIO_DISABLE_FENCED_BLOCK)
    target_compile_options(varve_flags INTERFACE -Wno-tsan)
  endif()
endif()
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo" OR CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_definitions(varve_flags INTERFACE _GLIBCXX_ASSERTIONS)
endif()
