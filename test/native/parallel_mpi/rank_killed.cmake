# cmake -DMPIEXEC=... -DPROGRAM=... -P: kills rank 1 of 4 at several moments; each time the other three must say that
# they noticed, and leave in order.
foreach(milliseconds 3 20 75)
  execute_process(COMMAND ${MPIEXEC} --enable-recovery -n 4 ${PROGRAM} ${milliseconds} OUTPUT_VARIABLE said TIMEOUT 60)
  foreach(rank 0 2 3)
    if(NOT said MATCHES "survivor ${rank}: [^\n]*rank [0-3] did not answer within")
      message(FATAL_ERROR "rank 1 was killed after ${milliseconds} ms, and rank ${rank} did not say so:\n${said}")
    endif()
  endforeach()
endforeach()
