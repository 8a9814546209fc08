-- SPDX-License-Identifier: Apache-2.0
-- A session with one stereo track, the plugin on it, and steps of automation: ardour7-lua make_session.lua, with the job
-- (a file that returns a table; ardour_session.py writes it) in ARDOUR_JOB.
local job = dofile (os.getenv ("ARDOUR_JOB"))

local session = create_session (job.folder, job.name, job.rate)
assert (session, "no session")

local tempi = Temporal.TempoMap.fetch_writable ()
tempi:set_tempo (Temporal.Tempo (job.bpm, job.bpm, 4), Temporal.timepos_t (0))
Temporal.TempoMap.update (tempi)
tempi = nil

local track = session:new_audio_track (2, 2, nil, 1, "Music", ARDOUR.PresentationInfo.max_order, ARDOUR.TrackMode.Normal, true):front ()
local processor = ARDOUR.LuaAPI.new_plugin (session, job.plugin, ARDOUR.PluginType.VST3, "")
assert (not processor:isnil (), "Ardour does not know the plugin")
assert (track:add_processor_by_index (processor, 0, nil, true) == 0, "the plugin was refused")
local insert = processor:to_insert ()
local plugin = insert:plugin (0)
print ("latency", insert:signal_latency ())

local indices = {}
for index = 0, plugin:parameter_count () - 1 do
  indices[plugin:parameter_label (index)] = index
end

-- Ardour would draw lines between points; steps are what every host can be told alike.
for label, steps in pairs (job.automation) do
  local index = assert (indices[label], "no parameter " .. label)
  local _, line = ARDOUR.LuaAPI.plugin_automation (processor, index)
  assert (line:set_interpolation (Evoral.InterpolationStyle.Discrete), "no steps")
  for _, step in ipairs (steps) do
    line:add (Temporal.timepos_t.from_ticks (step[1]), step[2], false, false)
  end
  local control = insert:to_automatable ():automation_control (Evoral.Parameter (ARDOUR.AutomationType.PluginAutomation, 0, index), true)
  control:set_automation_state (ARDOUR.AutoState.Play)
end

session:save_state ("", false, false, false, false, false)
print ("MADE")
close_session ()
quit ()
