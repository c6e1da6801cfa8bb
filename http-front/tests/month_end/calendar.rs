//! Other times: a gateway started again later, and what the log itself says of each month.

use nullrun_loadtest::gateway::Gateway;
use persist::{Lsn, inspect};
use serde_json::Value;
use std::path::Path;

/// Stops the gateway and starts it again with its clock at `now`.
pub fn restarted_at(mut gateway: Gateway, now: &str) -> Gateway {
    gateway.stop().unwrap();
    let settings = gateway.settings().clone().env("NULLRUN_TEST_NOW", now);
    drop(gateway);
    Gateway::start(settings).unwrap()
}

/// What the records of an org's charges sum up to, in November and in December of 2026.
pub fn by_month(data: &Path, org: &str) -> [i64; 2] {
    let wal = inspect::Directory::read_only(data).wal;
    let mut lines = Vec::new();
    inspect::export(wal.as_ref(), Lsn(1), Lsn(u64::MAX), &mut lines).unwrap();
    let mut months = [0; 2];
    for line in String::from_utf8(lines).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let record = &line["record"];
        if line["type"] == "Charged" && record["org"] == org {
            let day = record["day"].as_i64().unwrap();
            let december = day * 86_400_000 >= super::MIDNIGHT_MILLIS;
            months[usize::from(december)] += record["cost"].as_i64().unwrap();
        }
    }
    months
}
