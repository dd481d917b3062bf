"""Parts of ``lowcomm-node swarm``: many real node processes on one computer, watched and reported."""
