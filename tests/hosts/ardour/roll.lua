-- SPDX-License-Identifier: Apache-2.0
-- Rolls a session in real time, on Ardour's dummy backend: ardour7-lua roll.lua, with the job in ARDOUR_JOB.
local job = dofile (os.getenv ("ARDOUR_JOB"))

local session = load_session (job.folder, job.name)
assert (session, "no session")
session:goto_start (false)
sleep (2) -- as a user would, the engine has been found before the transport rolls
session:reset_xrun_count ()
session:request_roll (ARDOUR.TransportRequestSource.TRS_UI)
sleep (job.seconds)
print ("rolling", session:transport_rolling ())
print ("sample", session:transport_sample ())
print ("xruns", session:get_xrun_count ())
session:request_stop (false, false, ARDOUR.TransportRequestSource.TRS_UI)
sleep (1)
print ("stopped", not session:transport_rolling ())
print ("ROLLED")
close_session ()
quit ()
