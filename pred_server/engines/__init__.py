"""Other engines than scikit-learn, plugged in when a server starts; nothing in the core imports them."""
