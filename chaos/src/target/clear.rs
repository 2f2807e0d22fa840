//! What stays of the load when it is over: products without a key that anybody could use. A product
//! itself cannot be deleted.

use clarion_protocol::{Code, ProductId};
use clarion_sdk::Admin;

use crate::Failure;

/// Revokes the keys of the products `NAMES-0`, …, at the first door that does it.
///
/// # Errors
/// When no door does; names the products.
pub async fn away(admins: &[(String, Admin)], names: &str, products: usize) -> Result<(), Failure> {
    let mut left: Vec<String> = (0..products).map(|index| format!("{names}-{index}")).collect();
    let mut why = String::new();
    for (_, admin) in admins {
        let mut still = Vec::new();
        for product in left {
            if let Err(failure) = revoke(admin, &product).await {
                why = failure.to_string();
                still.push(product);
            }
        }
        left = still;
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("the keys of {} are not revoked: {why}", left.join(", "))))
}

async fn revoke(admin: &Admin, product: &str) -> Result<(), Failure> {
    let id = ProductId::new(product).map_err(Failure::of("the product"))?;
    let info = match admin.product(&id).await {
        Ok(info) => info,
        // The run ended before it was made.
        Err(error) if error.code() == Some(Code::ProductUnknown) => return Ok(()),
        Err(error) => return Err(Failure::of("cannot look at a product")(error)),
    };
    for key in info.token_keys.iter().filter(|key| key.revoked_at_ms.is_none()) {
        let revoked = admin.revoke_token_key(&id, &key.kid).await;
        revoked.map_err(Failure::of("cannot revoke a key"))?;
    }
    for key in info.api_keys.iter().filter(|key| key.revoked_at_ms.is_none()) {
        let revoked = admin.revoke_key(&id, &key.key).await;
        revoked.map_err(Failure::of("cannot revoke a key"))?;
    }
    Ok(())
}
