//! One of the two hosts: a network namespace with an agent and services.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};

use super::POLICY_FILE;
use super::authority::Authority;
use crate::demo::calls::Calls;
use crate::demo::stage::{self, Service};
use crate::netns::Namespace;
use crate::{AgentProcess, Sandbox};

/// See the module. Processes go first, then what they use.
#[derive(Debug)]
pub(super) struct Edge {
    _payments: Service,
    _agent: AgentProcess,
    pub(super) sandbox: Sandbox,
    pub(super) namespace: Namespace,
}

/// What it is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) address: Ipv4Addr,
    pub(super) policy: &'a str,
    pub(super) authority: &'a Authority,
    /// The version of payments that runs there, and where it listens.
    pub(super) payments: (&'a str, SocketAddr),
}

impl Edge {
    /// Starts the agent, then the service.
    pub(super) fn start(namespace: Namespace, plan: Plan<'_>) -> Result<Self> {
        let (sandbox, agent, service) = namespace
            .run(|| {
                let sandbox = Sandbox::for_node(plan.name, plan.address.into())?;
                sandbox.write_policy(POLICY_FILE, plan.policy)?;
                plan.authority.issue(plan.name, &sandbox)?;
                let started = AgentProcess::start_below(&sandbox);
                let agent = started.context("the agent does not start")?;
                let (version, listen) = plan.payments;
                let service = Service::start(&sandbox, version, listen)?;
                Ok((sandbox, agent, service))
            })
            .with_context(|| plan.name.to_owned())?;
        Ok(Self {
            _payments: service,
            _agent: agent,
            sandbox,
            namespace,
        })
    }

    /// Lets the service `name` on it send `count` requests.
    pub(super) fn call(&self, name: &str, to: &str, count: u64) -> Result<Calls> {
        self.namespace
            .run(|| stage::call(&self.sandbox, name, to, count))
    }
}
