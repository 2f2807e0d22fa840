//! Adds up numbers, each exactly once, whatever is killed when. `URL PRODUCT TOKEN FILE`
//!
//! The sum and the commit token are one value to the store: here one small file that is replaced
//! as a whole; with a database, two columns in one transaction.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use clarion_sdk::{Event, Terminal, TransactionalCursors};

struct Ledger {
    sum: i64,
    token: Option<Vec<u8>>,
}

impl Ledger {
    fn load(path: &Path) -> std::io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => {
                let (sum, token) =
                    bytes.split_first_chunk().ok_or(std::io::ErrorKind::InvalidData)?;
                Ok(Self { sum: i64::from_le_bytes(*sum), token: Some(token.to_vec()) })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { sum: 0, token: None })
            }
            Err(error) => Err(error),
        }
    }

    /// The transaction: both or neither.
    fn commit(&mut self, path: &Path, sum: i64, token: Vec<u8>) -> std::io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&sum.to_le_bytes())?;
        file.write_all(&token)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        (self.sum, self.token) = (sum, Some(token));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, product, token, path] = arguments.as_slice() else {
        return Err("usage: transactional URL PRODUCT TOKEN FILE".into());
    };
    let path = Path::new(path);
    let mut ledger = Ledger::load(path)?;
    let cursors = TransactionalCursors::resume(ledger.token.as_deref())?;
    let terminal = Terminal::builder(url, product, token.as_str()).cursor_store(cursors);
    let (_handle, mut events) = terminal.connect().await?;
    while let Some(event) = events.next().await {
        if let Event::Message(message) = event {
            let number: i64 = message.json().unwrap_or(0);
            ledger.commit(path, ledger.sum + number, message.commit_token())?;
            message.ack();
            println!("{} makes {}", number, ledger.sum);
        }
    }
    Ok(())
}
