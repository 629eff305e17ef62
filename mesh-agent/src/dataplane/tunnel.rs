//! What the tunnel and the kernel side tell each other.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use aya::maps::{HashMap, Map, MapData, MapError, SkStorage};
use mesh_common::{
    IPPROTO_TCP, Redirect, RedirectKey, SocketKey, SocketState, TunnelListener, socket_flag,
};

use super::DataplaneError;
use super::pins::Pins;
use crate::policy::compile::address;

/// Handles of the maps.
pub(crate) struct TunnelMaps {
    sockets: SkStorage<MapData, SocketState>,
    redirects: HashMap<MapData, RedirectKey, Redirect>,
    listeners: HashMap<MapData, u64, TunnelListener>,
}

impl TunnelMaps {
    pub(super) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let map = |name| MapData::from_pin(pins.map(name));
        Ok(Self {
            sockets: Map::SkStorage(map("SOCKETS")?).try_into()?,
            redirects: Map::HashMap(map("REDIRECTS")?).try_into()?,
            listeners: Map::HashMap(map("LISTENERS")?).try_into()?,
        })
    }

    /// Lets `socket` be bound where calls to other nodes go.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it.
    pub(crate) fn mark_listener(&mut self, socket: &impl AsRawFd) -> Result<(), MapError> {
        let state = SocketState {
            flags: socket_flag::TUNNEL,
            ..SocketState::default()
        };
        self.sockets.insert(socket, state, 0)
    }

    /// Lets the next `connect()` of `socket` be judged as a call of `source`, an id of `epoch`.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it.
    pub(crate) fn call_for(
        &mut self,
        socket: &impl AsRawFd,
        source: u32,
        epoch: u64,
    ) -> Result<(), MapError> {
        let state = SocketState {
            flags: socket_flag::TUNNEL,
            source,
            epoch: epoch as u32,
            ..SocketState::default()
        };
        self.sockets.insert(socket, state, 0)
    }

    /// Whether the `connect()` of `socket` was judged and allowed. It is not if the hooks do not act on
    /// the agent's own cgroup.
    pub(crate) fn was_allowed(&self, socket: &impl AsRawFd) -> bool {
        const ALLOWED: u32 = socket_flag::TUNNEL | socket_flag::FLOW;
        let state = self.sockets.get(socket, 0);
        state.is_ok_and(|state| state.flags & ALLOWED == ALLOWED)
    }

    /// What the connection from `client` in a network namespace is for; `None` if it was not the
    /// kernel that sent it here.
    pub(crate) fn redirect(&self, netns: u64, client: SocketAddr) -> Option<Redirect> {
        let key = RedirectKey {
            netns,
            client: SocketKey::new(address(client.ip()), client.port(), IPPROTO_TCP),
            _pad: 0,
        };
        self.redirects.get(&key, 0).ok()
    }

    /// Sends calls to other nodes from a network namespace to `port` of its loopback.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub(crate) fn announce(&mut self, netns: u64, port: u16) -> Result<(), MapError> {
        self.listeners.insert(netns, TunnelListener::at(port), 0)
    }

    /// Ends that: the namespace is gone, or nobody listens any more.
    pub(crate) fn withdraw(&mut self, netns: u64) {
        // It is not there if another agent has been faster.
        let _ = self.listeners.remove(&netns);
    }

    /// Namespaces that calls are sent to the agent from.
    pub(crate) fn announced(&self) -> Vec<(u64, u16)> {
        let listed = self.listeners.iter().flatten();
        listed.map(|(netns, at)| (netns, at.port as u16)).collect()
    }
}
