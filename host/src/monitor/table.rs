//! Rows as text with aligned columns.

/// A table of text; numbers stand to the right.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// The length of each column's longest cell.
    widths: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Left(&'static str),
    Right(&'static str),
}

impl Table {
    /// A table with these heads; one that ends in `#` is of numbers.
    pub fn new(heads: &[&'static str]) -> Table {
        let column = |head: &&'static str| match head.strip_suffix('#') {
            Some(head) => Column::Right(head),
            None => Column::Left(head),
        };
        let mut table = Table {
            columns: heads.iter().map(column).collect(),
            rows: Vec::new(),
            widths: vec![0; heads.len()],
        };
        let heads = table.columns.iter().map(|column| column.head().to_uppercase()).collect();
        table.push(heads);
        table
    }

    /// Whether there is no row below the heads.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// Adds a row; what a terminal would obey instead of showing is replaced, for names and reasons come from plugins.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| if cell.is_empty() { "-".to_owned() } else { clean(&cell) };
        self.push(cells.into_iter().map(clean).collect());
    }

    /// The table as lines of at most `width` columns; what is longer is cut at the right.
    pub fn render(&self, width: usize) -> String {
        self.lines(width).collect()
    }

    /// The same, line by line, for a table that is too long for one turn of the loop.
    pub fn lines(&self, width: usize) -> impl Iterator<Item = String> {
        self.rows.iter().map(move |row| self.line(row, width))
    }

    fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len());
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(row);
    }

    fn line(&self, row: &[String], width: usize) -> String {
        let cell = |((cell, column), width): ((&String, &Column), &usize)| match column {
            Column::Left(_) => format!("{cell:width$}"),
            Column::Right(_) => format!("{cell:>width$}"),
        };
        let line = row
            .iter()
            .zip(&self.columns)
            .zip(&self.widths)
            .map(cell)
            .collect::<Vec<_>>()
            .join("  ");
        cut(line.trim_end(), width) + "\n"
    }
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Column::Left(head) | Column::Right(head) => head,
        }
    }
}

/// Text without control characters.
pub fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "\u{fffd}")
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_long_lines_cut() {
        let mut table = Table::new(&["name", "heap#", "reason"]);
        table.row(["web", "12", ""].map(str::to_owned));
        table.row(["a-long-name", "1234", "x\u{1b}[31m"].map(str::to_owned));
        let text = table.render(usize::MAX);
        assert_eq!(
            text,
            "NAME         HEAP  REASON\nweb            12  -\na-long-name  1234  x\u{fffd}[31m\n"
        );
        assert_eq!(table.render(12).lines().nth(2), Some("a-long-name…"));
        assert_eq!(Table::new(&["a"]).render(80), "A\n");
    }
}
