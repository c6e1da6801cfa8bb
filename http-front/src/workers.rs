//! The threads beside the main one: pumps, and further workers that serve HTTP.

use crate::app::App;
use crate::boot::BootError;
use crate::placement::{self, Placement};
use crate::pumps::{self, Exchange};
use crate::shards::{Queues, Waiter, become_worker};
use crate::{routes, server};
use engine::pump::{Publisher, Pump};
use persist::Log;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Threads and tasks to be waited for at the end.
#[derive(Debug, Default)]
pub struct Threads {
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Threads {
    fn start(
        &mut self,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), BootError> {
        let thread = std::thread::Builder::new().name(name).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for all of them. A panic has ended the process through its hook already.
    pub async fn ended(self) {
        for task in self.tasks {
            let _ended = task.await;
        }
        let joined = tokio::task::spawn_blocking(|| {
            for thread in self.threads {
                let _ended = thread.join();
            }
        });
        let _joined = joined.await;
    }
}

/// Starts the pumps: one as a task of this thread, or each on its own.
pub fn start_pumps(
    placement: &Placement,
    pumps: Vec<Pump<Waiter>>,
    queues: Queues,
    log: &Arc<Log>,
    exchange: &Arc<Exchange>,
    publisher: &Arc<Publisher>,
) -> Result<Threads, BootError> {
    let mut threads = Threads::default();
    for (number, (pump, queue)) in (0_u32..).zip(pumps.into_iter().zip(queues)) {
        let (log, exchange) = (Arc::clone(log), Arc::clone(exchange));
        if !placement.threads {
            let publisher = Arc::clone(publisher);
            let pumping = pumps::run_in_front(pump, log, queue, exchange, publisher);
            threads.tasks.push(tokio::spawn(pumping));
            continue;
        }
        let pinned = placement.pinned;
        threads.start(format!("nullrun-pump-{number}"), move || {
            if pinned {
                placement::pin(number);
            }
            pumps::run_on_thread(pump, &log, &queue, &exchange);
        })?;
    }
    Ok(threads)
}

/// Releases the answers of this thread's clients.
pub fn start_release(
    number: u32,
    app: &Arc<App>,
    exchange: &Arc<Exchange>,
) -> tokio::task::JoinHandle<()> {
    let (shards, log) = (app.shards.clone(), Arc::clone(&app.log));
    let (exchange, publisher) = (Arc::clone(exchange), Arc::clone(&app.publisher));
    tokio::spawn(pumps::release(number, shards, log, exchange, publisher))
}

/// Starts workers 1 and up: each accepts from the same socket and serves on its own thread.
pub fn start_workers(
    placement: &Placement,
    app: &Arc<App>,
    listener: &TcpListener,
    limits: server::Limits,
    exchange: &Arc<Exchange>,
    stop: &watch::Receiver<bool>,
) -> Result<Threads, BootError> {
    let mut threads = Threads::default();
    for number in 1..placement.workers {
        let listener = listener.try_clone()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (app, exchange, mut stop) = (Arc::clone(app), Arc::clone(exchange), stop.clone());
        threads.start(format!("nullrun-http-{number}"), move || {
            become_worker(number);
            runtime.block_on(async move {
                let released = start_release(number, &app, &exchange);
                let router = routes::router(Arc::clone(&app));
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let stopped = async move {
                            let _gone = stop.wait_for(|stop| *stop).await;
                        };
                        server::serve(listener, router, limits, stopped).await;
                    }
                    Err(error) => exchange.failed.tell(error.to_string()),
                }
                drop(app);
                // Until the pumps are done: commands of others may still be answered here.
                let _ended = released.await;
            });
        })?;
    }
    Ok(threads)
}
