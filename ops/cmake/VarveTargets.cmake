# varve_add_library(NAME SOURCES ... LIBS ...): one library per folder; LIBS are public, layers point down.
function(varve_add_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC varve_flags ${ARG_LIBS})
endfunction()

# varve_add_test(NAME LABELS ... SOURCES ... LIBS ...): one GoogleTest binary; the labels (unit sim e2e gpu fuzz bench
# slow, and the folder) are the test plan. RUN_SERIAL keeps it alone on the machine (timings, memory limits).
function(varve_add_test name)
  cmake_parse_arguments(ARG "RUN_SERIAL" "TIMEOUT" "LABELS;SOURCES;LIBS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  if("unit" IN_LIST ARG_LABELS OR "fuzz" IN_LIST ARG_LABELS)
    add_dependencies(varve_unit_tests ${name})
  endif()
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE VARVE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" VARVE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if(ARG_RUN_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()

# Builds what the labels unit and fuzz need: the sanitizer builds run no more than that.
if(NOT TARGET varve_unit_tests)
  add_custom_target(varve_unit_tests)
endif()
