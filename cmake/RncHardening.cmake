# What every binary of ours is compiled and linked with against its own mistakes; and RNC_SANITIZE=undefined, which finds them.
#
# Stack canaries in functions with arrays; libc calls that know the size of what they write to (needs an optimised build); pointers
# that the loader resolves at once and then locks; no executable stack, no code that the loader must write to.
# The fibers of the emulator have stacks of their own, but one OS thread, and so one canary (csrc/emulator/fiber.h).
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fstack-protector-strong>
                    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fstack-protector-strong>)
# Of C++ alone: nvcc's own front end does not know the builtins that level 3 needs.
add_compile_options(
  "$<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:SHELL:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3>")
add_link_options(LINKER:-z,relro,-z,now,-z,noexecstack,-z,text)

set(RNC_SANITIZE "" CACHE STRING "undefined: undefined behaviour of host code and emulated kernels ends the process, with a report")
set_property(CACHE RNC_SANITIZE PROPERTY STRINGS "" undefined)
if(RNC_SANITIZE STREQUAL "undefined")
  if(RNC_WITH_CUDA)
    message(FATAL_ERROR "RNC_SANITIZE=undefined is for the host: build with -DRNC_CUDA=OFF")
  endif()
  # -O1: with more, the kernels take several times as long to compile.
  add_compile_options(-O1 -g1 -fsanitize=undefined -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=undefined)
elseif(RNC_SANITIZE)
  message(FATAL_ERROR "RNC_SANITIZE is '${RNC_SANITIZE}'; accepted: undefined, or nothing")
endif()
