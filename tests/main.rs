
mod text;
