//! Reports of what happened: on a hold of one's own or another's, after its end, without any, twice
//! in one batch, again, and by another way.

use super::{Clients, MODELS, Want, recent, remember};
use crate::rng::Rng;
use engine::command::{Reported, Track};
use persist::WorkflowId;
use persist::record::Tokens;

impl Clients {
    pub(super) fn track(&mut self, rng: &mut Rng) -> Want {
        let at = self.tenant(rng);
        let (key, own) = self.key(rng, at);
        let free = self.tenants[at].keys.contains(&(key, None));
        let mut events = Vec::new();
        for _ in 0..rng.within(1, 4) {
            let workflow = if free { self.workflow(rng, at) } else { own };
            let event = self.event(rng, workflow);
            if event.event_key.is_some() && rng.chance(10) {
                events.push(event.clone());
            }
            events.push(event);
        }
        let track = Track {
            org: self.tenants[at].org,
            key,
            events,
        };
        remember(&mut self.tracks, track.clone());
        Want::Book(track)
    }

    fn event(&mut self, rng: &mut Rng, workflow: WorkflowId) -> Reported {
        let (input, output) = (rng.below(3_000), rng.below(1_500));
        let tokens = match rng.below(4) {
            0 => Tokens::default(),
            1 => Tokens {
                total: input,
                ..Tokens::default()
            },
            _ => Tokens {
                total: input + output,
                input,
                output,
                cache_read: rng.below(input + 1),
                reasoning: rng.below(output + 1),
                cache_write: 0,
            },
        };
        let named = rng.chance(70).then(|| self.hold(rng));
        let second = rng.chance(20).then(|| self.hold(rng));
        let ends = rng.chance(20).then(|| {
            named
                .filter(|_| rng.chance(80))
                .unwrap_or_else(|| self.hold(rng))
        });
        let serial = self.fresh();
        Reported {
            event_key: rng.chance(60).then_some(event_key(serial)),
            holds: [named, second],
            workflow,
            ends,
            kind: if ends.is_some() {
                "span_end"
            } else {
                "llm_call"
            }
            .to_owned(),
            model: rng.pick(&MODELS).flatten().map(str::to_owned),
            tokens,
            span_id: Some(span(serial)),
            ..Reported::default()
        }
    }

    /// The same report once more: what carries an event id, as clients do. Sometimes it comes by
    /// another way: on no hold, and for another workflow where the key may use it.
    pub(super) fn report_again(&mut self, rng: &mut Rng) -> Want {
        let Some(mut track) = recent(rng, &self.tracks) else {
            return self.track(rng);
        };
        track.events.retain(|event| event.event_key.is_some());
        if track.events.is_empty() {
            return self.track(rng);
        }
        if rng.chance(40) {
            let at = self.tenants.iter().position(|t| t.org == track.org);
            let at = at.unwrap_or_default();
            let free = self.tenants[at].keys.contains(&(track.key, None));
            for event in &mut track.events {
                event.holds = [rng.chance(30).then(|| self.hold(rng)), None];
                event.span_id = Some(span(self.fresh()));
                if free {
                    event.workflow = self.workflow(rng, at);
                }
            }
        }
        Want::Book(track)
    }
}

fn span(serial: u128) -> String {
    format!("s{serial:x}")
}

/// Spread over the whole width, as hashes are.
const fn event_key(serial: u128) -> u128 {
    serial.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}
