//! The lanes of this node (step 1): one for each product and mode in use, found or started.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use clarion_core::Mode;
use clarion_protocol::Code;
use clarion_storage::ProductRecord;

use super::Pushes;
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::lane::{Lane, LaneArguments, LaneHandle, Permit};
use crate::supervisor::{Child, ChildOf, Slot};

/// How long a lane that does not answer is given to start again, in milliseconds, each time.
const LANE_PAUSES_MS: [u64; 4] = [0, 5, 20, 80];

/// A lane, how it is started, and the quota that it keeps.
pub(super) type KnownLane = (LaneHandle, Arc<dyn Child>, Option<u32>);

impl Pushes {
    /// Step 1: a place in the product's lane for the mode.
    pub(crate) async fn admit(
        &self,
        product: &Arc<ProductRecord>,
        mode: Mode,
    ) -> Result<Permit, Failure> {
        // A lane that is just being restarted is asked again.
        for pause_ms in LANE_PAUSES_MS {
            if pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            let (lane, child) = self.lane(product, mode);
            if !lane.slot.is_filled() && !self.supervisor.ensure(child).await {
                break;
            }
            if let Some(admitted) = lane.admit().await {
                return admitted.map_err(Failure::from);
            }
        }
        Err(Failure::new(Code::Overloaded).retry_after_ms(1000))
    }

    /// Returns once every lane in use has taken a message from its mailbox.
    pub(crate) async fn progress(&self) {
        let lanes: Vec<LaneHandle> = {
            let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
            lanes.values().map(|(lane, ..)| lane.clone()).collect()
        };
        for lane in lanes {
            lane.progress().await;
        }
    }

    fn lane(&self, product: &Arc<ProductRecord>, mode: Mode) -> (LaneHandle, Arc<dyn Child>) {
        let key = (product.product.clone(), mode);
        let quota = product.pushes_per_s_max;
        let known = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((lane, child, _)) = known.get(&key).filter(|(_, _, of)| *of == quota) {
            return (lane.clone(), Arc::clone(child));
        }
        drop(known);
        let slot = Slot::new();
        let arguments = LaneArguments {
            store: Arc::clone(&self.store),
            in_flight_max: self.limits.in_flight_max,
            pushes_per_s_max: quota,
            idle_stop_ms: self.limits.idle_stop_ms,
            incarnation: 0,
        };
        let (lanes, forgotten) = (Arc::clone(&self.lanes), key.clone());
        let child: Arc<dyn Child> = Arc::new(ChildOf {
            kind: Kind::Lane,
            // With its quota: a changed one is another lane, the former goes idle.
            label: format!("{}/{}/{quota:?}", product.product, mode.as_str()),
            slot: Arc::clone(&slot),
            make: move |incarnation| (Lane, LaneArguments { incarnation, ..arguments.clone() }),
            started: Box::new(|_| {}),
            quarantined: Box::new(|| {}),
            forgotten: Box::new(move || {
                let mut lanes = lanes.write().unwrap_or_else(PoisonError::into_inner);
                if lanes.get(&forgotten).is_some_and(|(lane, ..)| !lane.slot.is_filled()) {
                    lanes.remove(&forgotten);
                }
            }),
        });
        let lane = LaneHandle { slot };
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        match lanes.get(&key).filter(|(_, _, of)| *of == quota) {
            Some((lane, child, _)) => (lane.clone(), Arc::clone(child)),
            None => {
                lanes.insert(key, (lane.clone(), Arc::clone(&child), quota));
                (lane, child)
            }
        }
    }
}
