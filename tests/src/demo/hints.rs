//! What to try while the demo stays up.

use super::stage::Stage;
use super::{POLICY_FILE, VIP};
use crate::agent;

/// Commands for another terminal.
pub(super) fn text(stage: &Stage) -> String {
    let sandbox = &stage.sandbox;
    let agent = agent::binary();
    let (agent, config) = (agent.display(), sandbox.agent_toml());
    let config = config.display();
    let policy = sandbox.path("conf.d").join(POLICY_FILE);
    let slice = sandbox.cgroup.path().join("system.slice");
    let slice = slice.display();
    format!(
        "
It stays up until Ctrl-C. In another terminal, as root:
  curl -s http://{admin}/metrics | grep ^mesh_
  {agent} status --config {config}
  {agent} explain host {VIP} --config {config}
  # as checkout, which may, and as the intruder, who may not:
  sh -c 'echo $$ > {slice}/checkout.service/cgroup.procs; exec curl -sS http://{VIP}/'
  sh -c 'echo $$ > {slice}/intruder.service/cgroup.procs; exec curl -sS http://{VIP}/'
  # change a weight or a rule, save, and call again:
  editor {policy}
",
        admin = sandbox.admin(),
        policy = policy.display(),
    )
}
