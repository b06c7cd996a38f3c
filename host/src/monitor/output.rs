//! What a command says, on its way to the client: bounded, so that a slow reader slows the command and not the host.

use serde::Serialize;
use tokio::sync::mpsc;

/// Where a command writes. Clones write to the same place.
#[derive(Clone)]
pub struct Output {
    pieces: mpsc::Sender<Piece>,
}

/// A part of what a command says; at most [`PIECE_BYTES_MAX`] long.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The answer.
    Out(String),
    /// Why there is none.
    Err(String),
}

/// The client has left, or does not read.
#[derive(Debug)]
pub struct Gone;

/// Text that travels as one line of the protocol.
pub const PIECE_BYTES_MAX: usize = 16 << 10;

impl Output {
    /// An output that holds at most about `bytes_max` before writing to it waits.
    pub fn channel(bytes_max: u64) -> (Output, mpsc::Receiver<Piece>) {
        let pieces_max = usize::try_from(bytes_max).unwrap_or(usize::MAX) / PIECE_BYTES_MAX;
        let (sender, receiver) = mpsc::channel(pieces_max.clamp(1, 1 << 16));
        (Output { pieces: sender }, receiver)
    }

    /// Says something.
    pub async fn text(&self, text: &str) -> Result<(), Gone> {
        self.send(text, Piece::Out).await
    }

    /// Says a value as one line of JSON.
    pub async fn json(&self, value: &impl Serialize) -> Result<(), Gone> {
        let mut text =
            serde_json::to_string(value).expect("statuses have text keys and finite numbers only");
        text.push('\n');
        self.text(&text).await
    }

    /// Says why it was not done.
    pub async fn error(&self, text: &str) -> Result<(), Gone> {
        self.send(text, Piece::Err).await
    }

    /// Waits until the client has left.
    pub async fn closed(&self) {
        self.pieces.closed().await;
    }

    async fn send(&self, mut text: &str, piece: fn(String) -> Piece) -> Result<(), Gone> {
        while !text.is_empty() {
            let (head, rest) = text.split_at(text.floor_char_boundary(PIECE_BYTES_MAX));
            self.pieces.send(piece(head.to_owned())).await.map_err(|_| Gone)?;
            text = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_text_travels_in_pieces_and_waits_for_its_reader() {
        let (output, mut pieces) = Output::channel(PIECE_BYTES_MAX as u64 * 2);
        let text = "ä".repeat(PIECE_BYTES_MAX * 2);
        let length = text.len();
        let writer = tokio::spawn(async move { output.text(&text).await.is_ok() });
        tokio::task::yield_now().await;
        assert_eq!(pieces.len(), 2);
        let mut read = 0;
        while let Some(Piece::Out(piece)) = pieces.recv().await {
            assert!(piece.len() <= PIECE_BYTES_MAX);
            read += piece.len();
        }
        assert!(writer.await.unwrap() && read == length);
    }

    #[tokio::test]
    async fn a_reader_that_has_left_is_noticed() {
        let (output, pieces) = Output::channel(0);
        drop(pieces);
        output.closed().await;
        assert!(output.text("x").await.is_err());
    }
}
