//! Requests by route. The routes are known once the router is made, but not to whoever counts: a
//! place is taken at a route's first request, and found again by its hash, without a lock.

use http::{Method, StatusCode};
use persist::latency::Latency;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Places: more than there are routes, and few enough that all of them together stay below 5,000
/// series whatever is asked.
const PLACES: usize = 192;
/// What requests for no route are counted under.
const UNMATCHED: &str = "unmatched";
/// What is counted under when there are more routes than places.
const REST: (&str, &str) = ("other", "other");

/// Classes of status codes.
pub const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// One route and method.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    name: OnceLock<(Box<str>, &'static str)>,
    classes: [AtomicU64; CLASSES.len()],
    latency: Latency,
}

impl RouteMetrics {
    /// Route and method, once there was a request.
    pub fn name(&self) -> Option<(&str, &'static str)> {
        self.name.get().map(|(route, method)| (&**route, *method))
    }

    /// Requests by class of their status.
    pub fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.classes.iter().map(|n| n.load(Ordering::Relaxed));
        CLASSES.into_iter().zip(counts)
    }

    /// How long they took.
    pub const fn latency(&self) -> &Latency {
        &self.latency
    }
}

/// All routes.
#[derive(Debug)]
pub struct RouteTable {
    places: Box<[RouteMetrics]>,
    rest: RouteMetrics,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            places: (0..PLACES).map(|_| RouteMetrics::default()).collect(),
            rest: RouteMetrics::default(),
        }
    }
}

impl RouteTable {
    /// Counts a request that was answered.
    pub fn note(&self, route: Option<&str>, method: &Method, status: StatusCode, took: Duration) {
        // A method that no route takes must not make a series of its own.
        let route = route.filter(|_| status != StatusCode::METHOD_NOT_ALLOWED);
        let place = self.place(route.unwrap_or(UNMATCHED), word(method));
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(class) = place.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        place.latency.note(took);
    }

    fn place(&self, route: &str, method: &'static str) -> &RouteMetrics {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in route.bytes().chain(method.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let first = (hash >> 32) as usize % PLACES;
        let mut places = (0..PLACES).filter_map(|n| self.places.get((first + n) % PLACES));
        let found = places.find(|place| {
            let (of, with) = place.name.get_or_init(|| (route.into(), method));
            **of == *route && *with == method
        });
        found.unwrap_or_else(|| {
            self.rest.name.get_or_init(|| (REST.0.into(), REST.1));
            &self.rest
        })
    }

    /// Those with requests.
    pub fn used(&self) -> impl Iterator<Item = &RouteMetrics> {
        let all = self.places.iter().chain([&self.rest]);
        all.filter(|place| place.name.get().is_some())
    }
}

/// A method's name; callers may invent others.
const fn word(method: &Method) -> &'static str {
    match *method {
        // HEAD is a GET without its body.
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_has_a_place_of_its_own_and_invented_methods_share_one() {
        let table = RouteTable::default();
        let took = Duration::from_millis(1);
        for n in 0..150 {
            let route = format!("/{n}");
            for _ in 0..=n % 3 {
                table.note(Some(&route), &Method::GET, StatusCode::OK, took);
            }
        }
        for name in ["BREW", "WHEN"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            table.note(None, &method, StatusCode::NOT_FOUND, took);
        }
        assert_eq!(table.used().count(), 151);
        for place in table.used() {
            let (route, method) = place.name().unwrap();
            let (expected, class) = match route.strip_prefix('/') {
                Some(n) => (n.parse::<u64>().unwrap() % 3 + 1, "2xx"),
                None => (2, "4xx"),
            };
            assert_eq!(method == "other", route == UNMATCHED);
            let counted = place.classes().find(|(_, n)| *n > 0);
            assert_eq!(counted, Some((class, expected)), "{route}");
            assert_eq!(place.latency().shown().count, expected);
        }
    }

    #[test]
    fn what_finds_no_place_and_methods_no_route_takes_make_no_series() {
        let table = RouteTable::default();
        let took = Duration::ZERO;
        for method in [Method::OPTIONS, Method::PUT] {
            for route in ["/a", "/b"] {
                let status = StatusCode::METHOD_NOT_ALLOWED;
                table.note(Some(route), &method, status, took);
            }
        }
        assert_eq!(table.used().count(), 2);
        for n in 0..1000 {
            table.note(Some(&n.to_string()), &Method::GET, StatusCode::OK, took);
        }
        assert_eq!(table.used().count(), PLACES + 1);
        let rest = table.used().last().unwrap();
        assert_eq!(rest.name(), Some(REST));
        assert_eq!(rest.latency().shown().count, 1002 - PLACES as u64);
    }
}
