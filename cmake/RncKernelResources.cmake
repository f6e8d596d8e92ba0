# kernel_resources.json of the package: what nvcc made of the shipped kernels (registers, shared memory, stack, spills, code) and
# what compiling them cost. `python -m resnet_cuda info --kernels` and benchmarks/guard.py read it. compile_cuda.py writes a part
# beside each object, a step behind the library merges them. Without nvcc there is no such file, nor does an older build's stay.
set(RNC_COMPILE_CUDA ${CMAKE_CURRENT_LIST_DIR}/compile_cuda.py)

if(RNC_WITH_CUDA)
  foreach(target ${RNC_KERNEL_TARGETS})
    set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER "${Python_EXECUTABLE};${RNC_COMPILE_CUDA};--resources")
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources INCLUDE REGEX "\\.cu$")
    set_property(SOURCE ${sources} APPEND PROPERTY OBJECT_DEPENDS ${RNC_COMPILE_CUDA})
  endforeach()

  set(objects "")
  foreach(target IN LISTS RNC_KERNEL_TARGETS)
    list(APPEND objects $<TARGET_OBJECTS:${target}>)
  endforeach()
  set(resources ${CMAKE_CURRENT_BINARY_DIR}/kernel_resources.json)
  add_custom_command(
    OUTPUT ${resources}
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/merge_resources.py ${resources} ${CMAKE_CUDA_COMPILER_VERSION}
            ${objects}
    DEPENDS rnc_kernels ${CMAKE_CURRENT_LIST_DIR}/merge_resources.py
    COMMENT "Merging what nvcc made of the kernels" COMMAND_EXPAND_LISTS VERBATIM)
  add_custom_target(rnc_kernel_resources ALL DEPENDS ${resources})
  install(FILES ${resources} DESTINATION .)
else()
  install(CODE "file(REMOVE \"\${CMAKE_INSTALL_PREFIX}/kernel_resources.json\")")
endif()
