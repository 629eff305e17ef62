use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::super::testing::{PATIENCE, accept, listen, open, peer, run, server_config};
use super::super::{Control, Server};
use super::*;

/// An agent that answers every OPEN with `code`, or with OPENED and the end of the flow.
struct Agent {
    address: SocketAddr,
    controls: Rc<RefCell<Vec<Control>>>,
    code: Rc<Cell<Option<Code>>>,
}

impl Agent {
    async fn start() -> Self {
        let (listener, address) = listen().await;
        let controls = Rc::default();
        let code = Rc::new(Cell::new(None));
        spawn_local(serve_all(listener, Rc::clone(&controls), code.clone()));
        Self {
            address,
            controls,
            code,
        }
    }

    fn cut(&self) {
        self.controls.borrow_mut().drain(..).for_each(|c| c.cut());
    }
}

async fn serve_all(
    listener: TcpListener,
    controls: Rc<RefCell<Vec<Control>>>,
    code: Rc<Cell<Option<Code>>>,
) {
    let config = Arc::new(server_config());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(accepted) = accept(stream, config.clone()).await else {
            continue;
        };
        controls.borrow_mut().push(accepted.session.control());
        spawn_local(serve(accepted.session, code.clone()));
    }
}

async fn serve(mut session: Session<Server>, code: Rc<Cell<Option<Code>>>) {
    while let Ok(Some(_)) = session.next_open(PATIENCE).await {
        if let Some(code) = code.get() {
            session.refuse(code).await.unwrap();
            continue;
        }
        let (near, far) = super::super::testing::pair().await;
        drop(near);
        match session.relay(far).unwrap().await {
            (_, Some(kept)) => session = kept,
            (_, None) => return,
        }
    }
}

fn pool(limits: PoolLimits) -> (Pool<u8>, Arc<PoolCounters>) {
    let counters = Arc::<PoolCounters>::default();
    (Pool::new(limits, counters.clone()), counters)
}

/// Opens a flow and ends it.
async fn flow(pool: &Pool<u8>, key: u8, peer: &Peer) -> Result<(), OpenError> {
    let session = pool.open(&key, peer, &open()).await?;
    finish(pool, key, session).await;
    Ok(())
}

async fn finish(pool: &Pool<u8>, key: u8, session: Session<Client>) {
    let (near, far) = super::super::testing::pair().await;
    drop(near);
    if let (_, Some(session)) = session.relay(far).await {
        pool.put(key, session);
    }
}

fn counted(counters: &PoolCounters) -> [u64; 4] {
    let PoolCounters {
        hits,
        misses,
        dials,
        dead,
        ..
    } = counters;
    [hits, misses, dials, dead].map(|counter| counter.load(Relaxed))
}

#[test]
fn a_connection_is_used_again_for_its_own_key_only() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits::default());
        let peer = peer(agent.address);
        for _ in 0..5 {
            flow(&pool, 1, &peer).await.unwrap();
        }
        assert_eq!(counted(&counters), [4, 1, 1, 0]);
        flow(&pool, 2, &peer).await.unwrap();
        assert_eq!(counted(&counters), [4, 2, 2, 0]);
        assert_eq!((pool.idle(), counters.idle.load(Relaxed)), (2, 2));
    });
}

#[test]
fn a_warm_connection_that_died_is_never_an_error() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits::default());
        let peer = peer(agent.address);
        flow(&pool, 1, &peer).await.unwrap();
        // Seen before it is used.
        agent.cut();
        sleep(Duration::from_millis(50)).await;
        flow(&pool, 1, &peer).await.unwrap();
        assert_eq!(counted(&counters), [0, 2, 2, 1]);
        // Not seen: it dies while OPEN is on its way.
        agent.cut();
        flow(&pool, 1, &peer).await.unwrap();
        assert_eq!(counted(&counters), [0, 3, 3, 2]);
    });
}

#[test]
fn what_a_task_keeps_for_a_flow_is_small() {
    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }
    let outbound = size(
        |(pool, peer, open): (Pool<u8>, Rc<Peer>, Open)| async move {
            pool.open(&1, &peer, &open).await.map(|_| ())
        },
    );
    let inbound = size(|mut session: Session<Server>| async move {
        session.next_open(PATIENCE).await.map(|_| ())
    });
    assert!(outbound <= 768, "{outbound}");
    assert!(inbound <= 256, "{inbound}");
}

#[test]
fn a_server_that_drains_is_asked_anew() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits::default());
        let peer = peer(agent.address);
        flow(&pool, 1, &peer).await.unwrap();
        agent
            .controls
            .borrow_mut()
            .drain(..)
            .for_each(|c| c.drain());
        flow(&pool, 1, &peer).await.unwrap();
        assert_eq!(counters.dials.load(Relaxed), 2);
        assert_eq!(pool.idle(), 1);
    });
}

#[test]
fn a_refusal_is_told_and_keeps_the_connection() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits::default());
        let peer = peer(agent.address);
        agent.code.set(Some(Code::Denied));
        for _ in 0..3 {
            let refused = flow(&pool, 1, &peer).await;
            assert!(matches!(refused, Err(OpenError::Refused(Code::Denied))));
        }
        assert_eq!(counted(&counters), [2, 1, 1, 0]);
        // On a connection of its own, too, draining is an answer.
        agent.code.set(Some(Code::Draining));
        let refused = flow(&pool, 1, &peer).await;
        assert!(matches!(refused, Err(OpenError::Refused(Code::Draining))));
        assert_eq!(counted(&counters), [2, 2, 2, 0]);
    });
}

#[test]
fn a_peer_that_is_gone_is_not_hammered() {
    run(async {
        let (listener, address) = listen().await;
        drop(listener);
        let (pool, counters) = pool(PoolLimits::default());
        let peer = peer(address);
        let first = flow(&pool, 1, &peer).await.unwrap_err();
        assert!(
            matches!(&first, OpenError::Dial(error) if error.name() == "refused"),
            "{first}"
        );
        // Another key is another identity on the same host.
        let second = flow(&pool, 2, &peer).await.unwrap_err();
        assert!(
            matches!(&second, OpenError::BackOff(error) if error.name() == "refused"),
            "{second}"
        );
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        assert_eq!(
            (count(&counters.refused), count(&counters.backed_off)),
            (1, 1)
        );
        sleep(Duration::from_millis(150)).await;
        let third = flow(&pool, 1, &peer).await.unwrap_err();
        assert!(matches!(third, OpenError::Dial(_)));
    });
}

#[test]
fn warm_connections_are_bounded() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits {
            per_key: 2,
            total: 3,
            ..PoolLimits::default()
        });
        let peer = peer(agent.address);
        for key in [1, 1, 1, 2, 3] {
            let session = peer.dial().await.unwrap();
            pool.put(key, session);
        }
        // The third of key 1, then the oldest of all.
        assert_eq!(pool.idle(), 3);
        assert_eq!(counters.evicted.load(Relaxed), 2);
        for key in [1, 2, 3] {
            flow(&pool, key, &peer).await.unwrap();
        }
        assert_eq!(counted(&counters), [3, 0, 0, 0]);
    });
}

#[test]
fn a_sweep_closes_what_is_old_or_dead_and_a_purge_what_is_named() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits {
            idle: Duration::from_millis(400),
            ..PoolLimits::default()
        });
        let peer = peer(agent.address);
        for key in [1, 2, 3] {
            pool.put(key, peer.dial().await.unwrap());
        }
        while agent.controls.borrow().len() < 3 {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(pool.purge(|key, _| *key == 3), 1);
        agent.controls.borrow()[0].cut();
        sleep(Duration::from_millis(50)).await;
        pool.sweep();
        assert_eq!(pool.idle(), 1);
        sleep(Duration::from_millis(450)).await;
        pool.sweep();
        assert_eq!(pool.idle(), 0);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
        let counts = [&counters.purged, &counters.dead, &counters.expired].map(count);
        assert_eq!(counts, [1, 1, 1]);
        assert_eq!(count(&counters.idle), 0);
    });
}

#[test]
fn what_a_burst_leaves_behind_is_kept_for_less_long() {
    run(async {
        let agent = Agent::start().await;
        let (pool, counters) = pool(PoolLimits {
            few: 2,
            idle: Duration::from_secs(10),
            surplus: Duration::from_millis(500),
            ..PoolLimits::default()
        });
        let peer = peer(agent.address);
        for _ in 0..5 {
            pool.put(1, peer.dial().await.unwrap());
        }
        pool.put(2, peer.dial().await.unwrap());
        // Longer than the surplus with the tenth that it may be late.
        sleep(Duration::from_secs(2)).await;
        pool.sweep();
        assert_eq!(pool.idle(), 3);
        assert_eq!(counters.expired.load(Relaxed), 3);
    });
}
