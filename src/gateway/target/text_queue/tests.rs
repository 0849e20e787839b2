use super::*;
use crate::gateway::wire::bounds::Phase;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

fn bounds(phase: &watch::Sender<Phase>) -> RequestBounds {
    let timeout = Duration::from_secs(30);
    RequestBounds::new(Instant::now(), timeout, timeout, phase.subscribe())
}

#[tokio::test]
async fn a_panic_in_a_text_task_is_an_error() {
    let phase = watch::Sender::new(Phase::Running);
    let mut bounds = bounds(&phase);
    let queue = TextQueue::new(TEXT_TIMEOUT);
    let broken = queue.run::<()>("", &mut bounds, || panic!("tokenizer bug")).await;
    assert!(matches!(broken, Err(LocalError::Internal(_))));
    assert_eq!(queue.run("", &mut bounds, || Ok(1)).await.ok(), Some(1));
}

/// Two threads: one tenant's long work leaves the other to others, and its queue does not stand before
/// theirs.
#[tokio::test]
async fn text_work_is_fair_to_every_tenant() {
    let phase = watch::Sender::new(Phase::Running);
    let queue = Arc::new(TextQueue::with_threads(2, TEXT_TIMEOUT));
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let flood: Vec<_> = (0..10)
        .map(|_| {
            let (queue, gate, mut bounds) = (queue.clone(), gate.clone(), bounds(&phase));
            tokio::spawn(async move {
                let work = move || Ok(gate.lock().unwrap().recv_timeout(Duration::from_secs(20)).is_ok());
                queue.run("flood", &mut bounds, work).await
            })
        })
        .collect();
    while queue.shared.lock().waiting_count < 9 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(queue.run("other", &mut bounds(&phase), || Ok(7)).await.ok(), Some(7));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited behind the flood");
    assert_eq!(queue.shared.lock().waiting_count, 9, "the flood has had one thread at a time");
    (0..10).for_each(|_| go.send(()).unwrap());
    for task in flood {
        assert!(task.await.unwrap().is_ok());
    }
    // A thread tells its result before it is free.
    while !queue.shared.lock().running.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn text_work_ends_when_its_client_leaves() {
    let phase = watch::Sender::new(Phase::Running);
    let queue = Arc::new(TextQueue::with_threads(2, TEXT_TIMEOUT));
    let begun = Arc::new(AtomicUsize::new(0));
    let (ended, told) = mpsc::channel();
    let request = |bounds: RequestBounds| {
        let (queue, begun, ended, mut bounds) = (queue.clone(), begun.clone(), ended.clone(), bounds);
        tokio::spawn(async move {
            let work = move || {
                begun.fetch_add(1, Ordering::SeqCst);
                // Its pieces.
                while let Ok(()) = crate::text::Stop::check_current() {
                    thread::sleep(Duration::from_millis(1));
                }
                ended.send(()).unwrap();
                Ok(())
            };
            queue.run("leaver", &mut bounds, work).await
        })
    };
    let requests: Vec<_> = (0..3).map(|_| request(bounds(&phase))).collect();
    while begun.load(Ordering::SeqCst) < 1 || queue.shared.lock().waiting_count < 2 {
        tokio::task::yield_now().await;
    }
    requests.iter().for_each(|request| request.abort());
    for request in requests {
        assert!(request.await.is_err_and(|error| error.is_cancelled()));
    }
    assert_eq!(queue.shared.lock().waiting_count, 0, "what waited is taken out");
    told.recv_timeout(Duration::from_secs(10)).expect("what ran has stopped");
    assert_eq!(begun.load(Ordering::SeqCst), 1, "what waited never began");
}

#[tokio::test]
async fn text_queues_are_bounded() {
    let phase = watch::Sender::new(Phase::Running);
    let queue = TextQueue::with_threads(0, TEXT_TIMEOUT);
    let mut bounds: Vec<_> = (0..=WAITING_PER_TENANT_MAX).map(|_| bounds(&phase)).collect();
    let mut all: Vec<_> =
        bounds.iter_mut().map(|bounds| Box::pin(queue.run("many", bounds, || Ok(())))).collect();
    let refused = all.pop().expect("one over the bound");
    for waiting in &mut all {
        assert!(futures_util::poll!(waiting).is_pending());
    }
    assert!(matches!(refused.await, Err(LocalError::TextBusy { waiting: WAITING_PER_TENANT_MAX })));
    let mut other = super::tests::bounds(&phase);
    assert!(futures_util::poll!(Box::pin(queue.run("other", &mut other, || Ok(())))).is_pending());
    drop(all);
    assert_eq!(queue.shared.lock().waiting_count, 0);
}

#[tokio::test]
async fn text_work_has_a_deadline() {
    let phase = watch::Sender::new(Phase::Running);
    let queue = TextQueue::with_threads(2, Duration::from_millis(50));
    let endless = || loop {
        crate::text::Stop::check_current()?;
        thread::sleep(Duration::from_millis(1));
    };
    let error = queue.run::<()>("", &mut bounds(&phase), endless).await.unwrap_err();
    assert!(error.to_string().contains("longer than 0.05 seconds"), "{error}");
}
