"""Inner optimizers behind one interface: what they keep is declared, so that nothing else needs a special case."""
