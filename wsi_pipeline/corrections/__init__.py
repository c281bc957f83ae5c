"""What people corrected: back into training sets, and back into run folders."""
