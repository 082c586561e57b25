"""What is told of a comparison or a training: plain data, tables, sentences, pictures, pages."""
