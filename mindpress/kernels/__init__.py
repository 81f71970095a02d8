"""Operations the runtime spends its time in; a plain reference of each beside what is fast."""
